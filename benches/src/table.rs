//! The measured figures, and whether each is within its bound.

use std::fmt::{self, Write};

use serde_json::json;

#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

impl Row {
    /// A figure under the name that `--only` knows it by.
    pub fn new(name: String, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self {
            name,
            value,
            unit,
            bound,
        }
    }

    fn ok(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }

    /// With enough digits to see on which side of the bound it is.
    fn shown(&self) -> String {
        if self.value.abs() >= 1000.0 {
            format!("{:.0}", self.value)
        } else {
            format!("{:.2}", self.value)
        }
    }
}

/// The table for people.
pub fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<46} {:>12} {:<14} {:>10}  ok\n",
        "name", "value", "unit", "bound"
    );
    for row in rows {
        let ok = if row.ok() { "yes" } else { "NO" };
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<46} {:>12} {:<14} {:>10}  {ok}",
            row.name,
            row.shown(),
            row.unit,
            row.bound.to_string()
        );
    }
    text
}

/// The output for programs: a list of `{"name", "value", "unit", "bound", "ok"}`.
pub fn json(rows: &[Row]) -> String {
    let row = |row: &Row| json!({"name": row.name, "value": row.value, "unit": row.unit, "bound": row.bound.to_string(), "ok": row.ok()});
    serde_json::Value::Array(rows.iter().map(row).collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_it_is_within_its_bound() {
        let row = |value, bound| Row::new("log.x".into(), value, "x", bound);
        assert!(row(10.0, Bound::AtLeast(10.0)).ok() && !row(9.9, Bound::AtLeast(10.0)).ok());
        assert!(row(1.3, Bound::AtMost(1.3)).ok() && !row(1.4, Bound::AtMost(1.3)).ok());
        let told = json(&[row(9.5, Bound::AtLeast(10.0))]);
        assert_eq!(
            told,
            r#"[{"bound":">= 10","name":"log.x","ok":false,"unit":"x","value":9.5}]"#
        );
    }
}
