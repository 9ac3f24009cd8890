//! ffmpeg as a source of pictures and films, as a decoder of photographs, and as a codec.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use genie_marks::testing::pictures::TestPicture;

use crate::setup::Measured;

/// ffmpeg's own sources, and when they have something to show.
const SOURCES: [(&str, f64); 8] = [
    ("testsrc", 1.0),
    ("testsrc2", 1.0),
    ("smptehdbars", 0.0),
    ("rgbtestsrc", 0.0),
    ("mandelbrot", 3.0),
    ("life=ratio=0.2:mold=30", 2.0),
    ("cellauto", 5.0),
    ("gradients=seed=7", 0.0),
];

const PICTURE_SIZES: [(usize, usize); 2] = [(640, 480), (1280, 720)];

/// A frame of each of ffmpeg's sources in each size.
pub fn pictures() -> Measured<Vec<TestPicture>> {
    let mut pictures = Vec::new();
    for size in PICTURE_SIZES {
        for (source, second) in SOURCES {
            let at = second.to_string();
            pictures.extend(frames(
                source,
                &input(source, size),
                &["-ss", &at, "-frames:v", "1"],
            )?);
        }
    }
    Ok(pictures)
}

/// The first frames of each of ffmpeg's sources.
pub fn films(size: (usize, usize), count: usize) -> Measured<Vec<Vec<TestPicture>>> {
    let film = |(source, second): &(&str, f64)| {
        let (at, count) = (second.to_string(), count.to_string());
        frames(
            source,
            &input(source, size),
            &["-ss", &at, "-frames:v", &count],
        )
    };
    SOURCES.iter().map(film).collect()
}

/// The photographs of a folder and of those below it, at most 1280 pixels wide.
pub fn photographs(folder: &Path) -> Measured<Vec<TestPicture>> {
    let mut pictures = Vec::new();
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            pictures.extend(photographs(&path)?);
        } else if name.ends_with(".jpg") {
            let path = path.to_string_lossy().into_owned();
            let input = ["-i".to_owned(), path];
            pictures.extend(frames(&name, &input, &["-vf", "scale='min(1280,iw)':-2"])?);
        }
    }
    Ok(pictures)
}

/// Compresses frames with x264 and gives back what a player sees.
pub fn through_x264(film: &[TestPicture], quality: u32) -> Measured<Vec<TestPicture>> {
    let first = film.first().ok_or("a film without frames")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("film.mp4");
    let size = format!("{}x{}", first.width, first.height);
    let mut encoder = Command::new("ffmpeg")
        .args([
            "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", &size, "-r", "25",
        ])
        .args([
            "-i",
            "-",
            "-c:v",
            "libx264",
            "-crf",
            &quality.to_string(),
            "-pix_fmt",
            "yuv420p",
        ])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = encoder.stdin.take().ok_or("ffmpeg has no standard input")?;
    for frame in film {
        input.write_all(&frame.pixels)?;
    }
    drop(input);
    if !encoder.wait()?.success() {
        return Err("ffmpeg cannot compress a film".into());
    }
    let input = ["-i".to_owned(), path.to_string_lossy().into_owned()];
    frames(&first.name, &input, &[])
}

fn input(source: &str, (width, height): (usize, usize)) -> [String; 4] {
    let separator = if source.contains('=') { ':' } else { '=' };
    let source = format!("{source}{separator}s={width}x{height}");
    ["-f", "lavfi", "-i", &source].map(str::to_owned)
}

/// The luminance of frames, which ffmpeg writes as portable grey maps.
fn frames(name: &str, input: &[String], options: &[&str]) -> Measured<Vec<TestPicture>> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(input)
        .args(options)
        .args(["-pix_fmt", "gray", "-c:v", "pgm", "-f", "image2pipe", "-"])
        .stderr(Stdio::inherit())
        .output()?;
    let mut left = output.stdout.as_slice();
    let mut frames = Vec::new();
    while !left.is_empty() {
        let header: Vec<&[u8]> = left.splitn(4, |byte| *byte == b'\n').collect();
        let [b"P5", size, b"255", pixels] = header[..] else {
            return Err(format!("{name}: ffmpeg wrote no grey map").into());
        };
        let size = std::str::from_utf8(size)?;
        let (width, height) = size.split_once(' ').ok_or("a grey map without its size")?;
        let (width, height) = (width.parse()?, height.parse()?);
        let (pixels, after) = pixels
            .split_at_checked(width * height)
            .ok_or("a short grey map")?;
        frames.push(TestPicture {
            name: name.to_owned(),
            width,
            height,
            pixels: pixels.to_vec(),
        });
        left = after;
    }
    if frames.is_empty() || !output.status.success() {
        return Err(format!("{name}: ffmpeg gave no frame").into());
    }
    Ok(frames)
}
