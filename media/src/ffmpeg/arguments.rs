//! The arguments of a call. Paths come from this program, names of users are never among them.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use super::MAX_PIXELS;
use crate::kind::MediaKind;

/// The arguments of a call of ffmpeg, in its order: inputs, what is done, the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FfmpegArguments(Vec<OsString>);

/// How any file of a job is opened: from the disk, by the reader of its kind.
fn opened(kind: MediaKind) -> [OsString; 6] {
    let most = MAX_PIXELS.to_string();
    [
        "-protocol_whitelist",
        "file,pipe",
        "-max_pixels",
        &most,
        "-f",
        kind.demuxer(),
    ]
    .map(OsString::from)
}

/// A path that is never read as a protocol or an option.
fn file(path: &Path) -> OsString {
    let mut file = OsString::from("file:");
    file.push(path);
    file
}

impl FfmpegArguments {
    pub fn new() -> Self {
        let global = "-nostdin -hide_banner -loglevel error -y -progress pipe:1";
        Self(global.split(' ').map(OsString::from).collect())
    }

    /// Frames go to standard output instead of progress.
    pub fn of_frames() -> Self {
        let global = "-nostdin -hide_banner -loglevel error";
        Self(global.split(' ').map(OsString::from).collect())
    }

    /// Frames without a container, of this format and size, from a file or from standard input.
    pub fn raw_input(
        self,
        format: &str,
        (width, height): (u32, u32),
        rate: f64,
        path: Option<&Path>,
    ) -> Self {
        let size = format!("{width}x{height}");
        let rate = rate.to_string();
        let path = path.map_or_else(|| OsString::from("pipe:0"), file);
        self.options(["-protocol_whitelist", "file,pipe", "-f", "rawvideo"])
            .options(["-pixel_format", format, "-video_size", &size])
            .options(["-framerate", &rate, "-i"])
            .options([path])
    }

    /// `options` are those of this input.
    pub fn input(mut self, options: &[&str], kind: MediaKind, path: &Path) -> Self {
        self.0.extend(options.iter().map(OsString::from));
        self.0.extend(opened(kind));
        self.0.push("-i".into());
        self.0.push(file(path));
        self
    }

    pub fn options<T: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = T>) -> Self {
        self.0
            .extend(options.into_iter().map(|option| option.as_ref().into()));
        self
    }

    pub fn output(self, muxer: &str, path: &Path) -> Self {
        let path = file(path);
        self.options(["-f", muxer]).options([path.as_os_str()])
    }

    /// Frames without a container, to standard output.
    pub fn raw_output(self) -> Self {
        self.options(["-f", "rawvideo", "pipe:1"])
    }

    pub(super) fn all(self) -> Vec<OsString> {
        self.0
    }
}

impl Default for FfmpegArguments {
    fn default() -> Self {
        Self::new()
    }
}

/// The arguments of a call of ffprobe.
pub(super) fn probe(kind: MediaKind, path: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-v", "error"].map(OsString::from).into();
    arguments.extend(opened(kind));
    let shown = ["-show_streams", "-show_format", "-of", "json"];
    arguments.extend(shown.map(OsString::from));
    arguments.push(file(path));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_never_an_option_or_a_protocol() {
        let arguments = FfmpegArguments::new()
            .input(
                &["-ss", "1"],
                MediaKind::Mp4,
                Path::new("concat:-i %03d.mp4"),
            )
            .options(["-c", "copy"])
            .output("mp4", Path::new("-y"));
        let written: Vec<String> = arguments
            .all()
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        assert_eq!(
            written.join(" "),
            "-nostdin -hide_banner -loglevel error -y -progress pipe:1 -ss 1 \
             -protocol_whitelist file,pipe -max_pixels 100000000 -f mov \
             -i file:concat:-i %03d.mp4 -c copy -f mp4 file:-y"
        );
    }

    #[test]
    fn a_file_is_read_by_the_reader_of_its_kind() {
        let written = probe(MediaKind::Png, Path::new("/a/b"));
        let place = written.iter().position(|argument| argument == "-f");
        assert_eq!(written[place.unwrap() + 1], "png_pipe");
        assert_eq!(written.last().unwrap(), "file:/a/b");
    }
}
