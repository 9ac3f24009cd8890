//! What ffprobe prints. Fields that are missing or of another type count as unknown.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Printed {
    streams: Vec<MediaStream>,
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Format {
    #[serde(deserialize_with = "lenient")]
    duration: Option<String>,
    #[serde(deserialize_with = "lenient_or_default")]
    tags: BTreeMap<String, Value>,
}

/// A stream of a file.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct MediaStream {
    #[serde(deserialize_with = "lenient")]
    index: Option<usize>,
    #[serde(deserialize_with = "lenient")]
    codec_type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub codec_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    width: Option<u32>,
    #[serde(deserialize_with = "lenient")]
    height: Option<u32>,
    #[serde(deserialize_with = "lenient")]
    sample_aspect_ratio: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pix_fmt: Option<String>,
    #[serde(deserialize_with = "lenient")]
    color_space: Option<String>,
    #[serde(deserialize_with = "lenient")]
    color_transfer: Option<String>,
    #[serde(deserialize_with = "lenient")]
    color_primaries: Option<String>,
    #[serde(deserialize_with = "lenient")]
    field_order: Option<String>,
    #[serde(deserialize_with = "lenient")]
    r_frame_rate: Option<String>,
    #[serde(deserialize_with = "lenient")]
    avg_frame_rate: Option<String>,
    #[serde(deserialize_with = "lenient")]
    duration: Option<String>,
    #[serde(deserialize_with = "lenient")]
    channels: Option<u32>,
    #[serde(deserialize_with = "lenient_or_default")]
    disposition: BTreeMap<String, i64>,
    #[serde(deserialize_with = "lenient_or_default")]
    tags: BTreeMap<String, Value>,
    #[serde(deserialize_with = "lenient_or_default")]
    side_data_list: Vec<SideData>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct SideData {
    #[serde(deserialize_with = "lenient")]
    side_data_type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    rotation: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    dv_profile: Option<i64>,
}

/// How numbers of a picture become colours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Colour {
    pub pixel_format: String,
    pub matrix: Option<String>,
    pub transfer: Option<String>,
    pub primaries: Option<String>,
}

fn lenient<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

fn lenient_or_default<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(lenient(deserializer)?.unwrap_or_default())
}

/// Tags that programs write about themselves.
const HARMLESS_TAGS: [&str; 12] = [
    "encoder",
    "handler_name",
    "vendor_id",
    "language",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "duration",
    "rotate",
    "alpha_mode",
    "metadatacreator",
    "hasKeyframes",
];

impl Printed {
    /// The stream of moving pictures, with its number: no cover.
    pub fn film(&self) -> Option<(usize, &MediaStream)> {
        let mut films: Vec<_> = self
            .of_type("video")
            .filter(|(_, stream)| !stream.is("attached_pic") && !stream.is("timed_thumbnails"))
            .collect();
        films.sort_by_key(|(_, stream)| !stream.is("default"));
        films.into_iter().next()
    }

    /// The sounds with their numbers, the preferred ones first.
    pub fn sounds(&self) -> Vec<(usize, &MediaStream)> {
        let mut sounds: Vec<_> = self.of_type("audio").collect();
        sounds.sort_by_key(|(_, stream)| !stream.is("default"));
        sounds
    }

    fn of_type<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a MediaStream)> {
        self.streams
            .iter()
            .enumerate()
            .map(|(place, stream)| (stream.index.unwrap_or(place), stream))
            .filter(move |(_, stream)| stream.codec_type.as_deref() == Some(name))
    }

    /// As the container tells it, in seconds.
    pub fn told_duration(&self) -> Option<f64> {
        seconds(self.format.duration.as_deref())
    }

    pub fn duration(&self, film: &MediaStream) -> Option<f64> {
        self.told_duration()
            .or_else(|| seconds(film.duration.as_deref()))
    }

    pub fn has_personal_tags(&self) -> bool {
        let of_streams = self.streams.iter().flat_map(|stream| stream.tags.keys());
        self.format.tags.keys().chain(of_streams).any(|name| {
            !HARMLESS_TAGS
                .iter()
                .any(|harmless| harmless.eq_ignore_ascii_case(name))
        })
    }
}

fn seconds(text: Option<&str>) -> Option<f64> {
    let seconds: f64 = text?.parse().ok()?;
    (seconds.is_finite() && seconds > 0.0).then_some(seconds)
}

/// A fraction such as `30000/1001` or `64:45`.
fn fraction(text: &str) -> Option<f64> {
    let (above, below) = text.split_once(['/', ':'])?;
    let (above, below): (f64, f64) = (above.parse().ok()?, below.parse().ok()?);
    let value = above / below;
    (value.is_finite() && value > 0.0).then_some(value)
}

impl MediaStream {
    fn is(&self, disposition: &str) -> bool {
        self.disposition.get(disposition) == Some(&1)
    }

    /// How many times wider than high a pixel is.
    fn pixel_shape(&self) -> f64 {
        self.sample_aspect_ratio
            .as_deref()
            .and_then(fraction)
            // Nothing sensible is beyond.
            .filter(|shape| (0.1..=10.0).contains(shape))
            .unwrap_or(1.0)
    }

    pub fn has_square_pixels(&self) -> bool {
        (self.pixel_shape() - 1.0).abs() < 1e-3
    }

    /// The size with square pixels, before it is turned.
    pub fn square(&self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.has_square_pixels() {
            return (width, height);
        }
        let wide = (f64::from(width) * self.pixel_shape()).round();
        (wide.max(1.0) as u32, height)
    }

    /// The size as it is seen.
    pub fn seen(&self) -> Option<(u32, u32)> {
        let stored = (self.width?, self.height?);
        if stored.0 == 0 || stored.1 == 0 {
            return None;
        }
        let (width, height) = self.square(stored);
        let quarters = (self.rotation() / 90.0).round() as i64;
        Some(if quarters % 2 == 0 {
            (width, height)
        } else {
            (height, width)
        })
    }

    fn rotation(&self) -> f64 {
        self.side_data_list
            .iter()
            .find_map(|data| data.rotation)
            .unwrap_or(0.0)
    }

    /// True when the pictures cannot be shown without what only Dolby's players know.
    pub fn is_dolby_vision_alone(&self) -> bool {
        self.side_data_list.iter().any(|data| {
            let is_record = data
                .side_data_type
                .as_deref()
                .is_some_and(|name| name.starts_with("DOVI"));
            is_record && data.dv_profile == Some(5)
        })
    }

    pub fn is_interlaced(&self) -> bool {
        matches!(self.field_order.as_deref(), Some("tt" | "bb" | "tb" | "bt"))
    }

    /// Frames a second, if they come evenly.
    pub fn rate(&self) -> Option<f64> {
        let least = self.r_frame_rate.as_deref().and_then(fraction)?;
        let average = self.avg_frame_rate.as_deref().and_then(fraction)?;
        let is_even = (least - average).abs() / average < 0.005;
        (is_even && least <= 240.0).then_some(least)
    }

    pub fn channels(&self) -> Option<u32> {
        self.channels.filter(|channels| *channels > 0)
    }

    pub fn colour(&self) -> Colour {
        let known = |text: &Option<String>| {
            text.clone()
                .filter(|text| !matches!(text.as_str(), "unknown" | "reserved" | "unspecified"))
        };
        Colour {
            pixel_format: self.pix_fmt.clone().unwrap_or_default(),
            matrix: known(&self.color_space),
            transfer: known(&self.color_transfer),
            primaries: known(&self.color_primaries),
        }
    }
}

impl Colour {
    /// Brighter than a common screen shows.
    pub fn is_hdr(&self) -> bool {
        matches!(self.transfer.as_deref(), Some("smpte2084" | "arib-std-b67"))
    }

    pub fn is_rgb(&self) -> bool {
        let format = &self.pixel_format;
        self.matrix.as_deref() == Some("gbr")
            || [
                "rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal8", "x2",
            ]
            .iter()
            .any(|name| format.starts_with(name))
    }

    pub fn has_alpha(&self) -> bool {
        let format = &self.pixel_format;
        [
            "yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "pal8", "ya8", "ya16",
        ]
        .iter()
        .any(|name| format.starts_with(name))
    }

    /// More than 8 bits a channel.
    pub fn is_deep(&self) -> bool {
        let format = &self.pixel_format;
        let is_low = ["rgb5", "bgr5", "rgb444", "bgr444"]
            .iter()
            .any(|name| format.starts_with(name));
        (format.ends_with("le") || format.ends_with("be")) && !is_low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: &str) -> Printed {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_cover_is_no_film_and_the_preferred_sound_comes_first() {
        let printed = printed(
            r#"{"streams": [
                {"index": 0, "codec_type": "video", "disposition": {"attached_pic": 1}},
                {"index": 1, "codec_type": "audio", "disposition": {"default": 0}},
                {"index": 2, "codec_type": "audio", "disposition": {"default": 1}},
                {"index": 3, "codec_type": "video", "codec_name": "h264"}
            ]}"#,
        );
        assert_eq!(printed.film().map(|(index, _)| index), Some(3));
        let sounds: Vec<usize> = printed.sounds().iter().map(|(index, _)| *index).collect();
        assert_eq!(sounds, [2, 1]);
    }

    #[test]
    fn a_size_is_as_it_is_seen() {
        for (shape, rotation, size) in [
            ("1:1", 0.0, (720, 576)),
            ("64:45", 0.0, (1024, 576)),
            ("64:45", -90.0, (576, 1024)),
            ("0:1", 180.0, (720, 576)),
            ("1:1", 270.0, (576, 720)),
        ] {
            let stream = MediaStream {
                width: Some(720),
                height: Some(576),
                sample_aspect_ratio: Some(shape.into()),
                side_data_list: vec![SideData {
                    rotation: Some(rotation),
                    ..SideData::default()
                }],
                ..MediaStream::default()
            };
            assert_eq!(stream.seen(), Some(size));
        }
    }

    #[test]
    fn odd_fields_count_as_unknown() {
        let printed = printed(
            r#"{"streams": [{"codec_type": "video", "width": "wide", "channels": -1, "tags": [],
                "avg_frame_rate": "0/0", "duration": 7, "new": {}}], "format": {"duration": "N/A"}}"#,
        );
        let (_, film) = printed.film().unwrap();
        assert_eq!(film.seen(), None);
        assert_eq!(film.rate(), None);
        assert_eq!(printed.duration(film), None);
    }

    #[test]
    fn a_pixel_format_tells_depth_and_transparency() {
        let colour = |pixel_format: &str| Colour {
            pixel_format: pixel_format.into(),
            ..Colour::default()
        };
        for (format, deep, alpha, rgb) in [
            ("yuv420p", false, false, false),
            ("yuv410p", false, false, false),
            ("yuv420p10le", true, false, false),
            ("rgb48be", true, false, true),
            ("rgb565le", false, false, true),
            ("rgba64be", true, true, true),
            ("pal8", false, true, true),
            ("gray16be", true, false, false),
            ("yuva420p", false, true, false),
        ] {
            let colour = colour(format);
            assert_eq!(colour.is_deep(), deep, "{format}");
            assert_eq!(colour.has_alpha(), alpha, "{format}");
            assert_eq!(colour.is_rgb(), rgb, "{format}");
        }
    }
}
