//! Calls of ffmpeg and ffprobe.
