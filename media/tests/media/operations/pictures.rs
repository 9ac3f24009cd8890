//! Operations on pictures.

use std::{fs, path::PathBuf};

use genie_media::{kind::MediaKind, picture};
use serde_json::json;

use crate::studio::{
    BLUE, Frames, HALVES, OF_A_CAMERA, RED, made, media, perform, probed, remade, tags, told,
};

fn halves() -> PathBuf {
    media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24")
}

fn photo() -> PathBuf {
    remade("photo.jpg", &halves(), "-pix_fmt yuvj444p -qmin 1 -q:v 1")
}

/// A photo that is to be turned by a quarter to the right before it is seen.
fn turned() -> PathBuf {
    told("turned.jpg", &photo(), &["-n", "-EXIF:Orientation=6"])
}

/// Green on the left, nothing on the right.
fn half_transparent() -> PathBuf {
    let source = "color=black:s=64x48:d=1,format=rgba,geq=r=0:g=200:b=0:a='if(lt(X,32),255,0)'";
    media("transparent.png", &[source], "-frames:v 1")
}

#[tokio::test]
async fn a_picture_becomes_another_kind() {
    for (format, codec, mime, name) in [
        ("jpeg", "mjpeg", "image/jpeg", "my input.jpg"),
        ("png", "png", "image/png", "my input.png"),
        ("webp", "webp", "image/webp", "my input.webp"),
        ("avif", "av1", "image/avif", "my input.avif"),
    ] {
        let made = perform("convert_image", json!({"format": format}), &[&photo()]).await;
        assert_eq!(made.size(), (64, 48));
        assert_eq!(made.output().mime, mime);
        assert_eq!(made.output().name, name);
        assert_eq!(made.output().duration, None);
        assert_eq!(made.stream("video")["codec_name"], codec);
        let frames = Frames::of(made.path(), (64, 48));
        assert_eq!(frames.count(), 1);
        frames.check((10, 20), RED, 12);
        frames.check((50, 20), BLUE, 12);
        // What was written is read again.
        let again = perform("resize_image", json!({"width": 32}), &[made.path()]).await;
        assert_eq!((again.size(), again.output().mime), ((32, 24), mime));
        Frames::of(again.path(), (32, 24)).check((5, 12), RED, 16);
    }
}

#[tokio::test]
async fn transparency_stays_or_becomes_the_background() {
    for (format, background, wanted, tolerance) in [
        ("jpeg", json!(null), [255, 255, 255], 4),
        ("jpeg", json!("#102030"), [16, 32, 48], 6),
        ("avif", json!("yellow"), [255, 255, 0], 14),
    ] {
        let params = json!({"format": format, "background": background});
        let made = perform("convert_image", params, &[&half_transparent()]).await;
        let frames = Frames::of(made.path(), (64, 48));
        frames.check((10, 20), [0, 200, 0], 14);
        frames.check((56, 20), wanted, tolerance);
    }
    for (operation, params) in [
        ("convert_image", json!({"format": "webp"})),
        ("resize_image", json!({"width": 32})),
    ] {
        let made = perform(operation, params, &[&half_transparent()]).await;
        let (width, height) = made.size();
        let shown = format!(
            "-i {} -vf alphaextract -f rawvideo -pix_fmt gray -",
            made.path().display()
        );
        let alpha = crate::studio::ffmpeg(&shown, &[]);
        let row = (height / 2 * width) as usize;
        assert!(alpha[row] > 250 && alpha[row + width as usize - 1] < 5);
    }
}

#[tokio::test]
async fn quality_decides_the_size() {
    let noise = media(
        "noise.png",
        &["testsrc=s=64x48:d=1,noise=alls=60"],
        "-frames:v 1 -pix_fmt rgb24",
    );
    for format in ["jpeg", "webp", "avif"] {
        let params = |quality| json!({"format": format, "quality": quality});
        let fine = perform("convert_image", params(95), &[&noise]).await;
        let coarse = perform("convert_image", params(20), &[&noise]).await;
        assert!(fine.bytes().len() > coarse.bytes().len() * 2, "{format}");
    }
}

#[tokio::test]
async fn a_photo_comes_out_as_it_is_seen() {
    let made = perform("convert_image", json!({"format": "png"}), &[&turned()]).await;
    assert_eq!(made.size(), (48, 64));
    let frames = Frames::of(made.path(), (48, 64));
    frames.check((24, 8), RED, 12);
    frames.check((24, 56), BLUE, 12);
    let cut = json!({"width": 48, "height": 16, "y": 0});
    let cut = perform("crop_image", cut, &[&turned()]).await;
    assert_eq!((cut.size(), cut.output().mime), ((48, 16), "image/jpeg"));
    Frames::of(cut.path(), (48, 16)).check((24, 8), RED, 12);
    let small = perform("thumbnail", json!({"width": 24}), &[&turned()]).await;
    assert_eq!(small.size(), (24, 32));
}

#[tokio::test]
async fn each_orientation_is_applied() {
    let corner = "color=black:s=64x48:d=1,drawbox=x=0:y=0:w=16:h=16:c=red:t=fill";
    let corner = media("corner.png", &[corner], "-frames:v 1 -pix_fmt rgb24");
    for (number, size, place) in [
        (1, (64, 48), (4, 4)),
        (2, (64, 48), (60, 4)),
        (3, (64, 48), (60, 44)),
        (4, (64, 48), (4, 44)),
        (5, (48, 64), (4, 4)),
        (6, (48, 64), (44, 4)),
        (7, (48, 64), (44, 60)),
        (8, (48, 64), (4, 60)),
    ] {
        let turned = made(&format!("corner-{number}.png"), |path| {
            let orientation = [
                &b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..],
                &[number, 0, 0, 0],
                &[0; 4],
            ];
            let told = picture::Told {
                exif: Some(orientation.concat()),
                ..picture::Told::default()
            };
            let turned = picture::tell(MediaKind::Png, fs::read(&corner).unwrap(), &told);
            fs::write(path, turned.unwrap()).unwrap();
        });
        let made = perform("convert_image", json!({"format": "png"}), &[&turned]).await;
        assert_eq!(made.size(), size, "{number}");
        Frames::of(made.path(), size).check(place, RED, 4);
    }
}

#[tokio::test]
async fn a_resized_picture_fits_or_fills() {
    for (fit, size) in [
        ("contain", (30, 23)),
        ("cover", (30, 30)),
        ("fill", (30, 30)),
    ] {
        let params = json!({"width": 30, "height": 30, "fit": fit});
        let made = perform("resize_image", params, &[&halves()]).await;
        assert_eq!(made.size(), size);
        assert_eq!(made.output().mime, "image/png");
        let frames = Frames::of(made.path(), size);
        frames.check((5, 10), RED, 4);
        frames.check((25, 10), BLUE, 4);
    }
    let larger = json!({"height": 480});
    assert_eq!(
        perform("resize_image", larger, &[&halves()]).await.size(),
        (64, 48)
    );
}

#[tokio::test]
async fn a_cropped_picture_has_the_same_pixels() {
    let source = media(
        "pattern.png",
        &["testsrc=s=64x48:d=1"],
        "-frames:v 1 -pix_fmt rgb24",
    );
    let params = json!({"width": 33, "height": 21, "x": 7, "y": 5});
    let made = perform("crop_image", params, &[&source]).await;
    assert_eq!(made.size(), (33, 21));
    let before = Frames::of(&source, (64, 48));
    let after = Frames::of(made.path(), (33, 21));
    for (x, y) in [(0, 0), (32, 20), (13, 7), (20, 0)] {
        assert_eq!(after.pixel(0, (x, y)), before.pixel(0, (x + 7, y + 5)));
    }
}

#[tokio::test]
async fn sixteen_bits_stay_sixteen_bits() {
    let deep = media("deep.png", &[HALVES], "-frames:v 1 -pix_fmt rgb48be");
    let made = perform("resize_image", json!({"width": 32}), &[&deep]).await;
    assert_eq!(made.stream("video")["pix_fmt"], "rgb48be");
    let jpeg = perform("convert_image", json!({"format": "jpeg"}), &[&deep]).await;
    Frames::of(jpeg.path(), (64, 48)).check((50, 20), BLUE, 12);
}

#[tokio::test]
async fn the_first_frame_of_a_gif_is_the_picture() {
    let gif = media(
        "steps.gif",
        &["color=red:s=64x48:r=10:d=0.3[a];color=blue:s=64x48:r=10:d=0.3[b];[a][b]concat"],
        "",
    );
    for (operation, params) in [
        ("convert_image", json!({"format": "png"})),
        ("crop_image", json!({"width": 64, "height": 48})),
    ] {
        let made = perform(operation, params, &[&gif]).await;
        let frames = Frames::of(made.path(), (64, 48));
        assert_eq!(frames.count(), 1);
        frames.check((30, 30), RED, 6);
    }
}

#[tokio::test]
async fn other_kinds_of_pictures_are_read_and_stay() {
    for (name, options, mime) in [
        ("halves.tiff", "-pix_fmt rgb24", "image/tiff"),
        ("halves.bmp", "-pix_fmt bgr24", "image/bmp"),
        ("gray.jpg", "-pix_fmt gray", "image/jpeg"),
        (
            "halves-lossless.webp",
            "-c:v libwebp -lossless 1",
            "image/webp",
        ),
    ] {
        let source = remade(name, &halves(), options);
        let made = perform("resize_image", json!({"width": 32}), &[&source]).await;
        assert_eq!((made.size(), made.output().mime), ((32, 24), mime));
    }
}

/// A JPEG of four inks, of one colour: a quarter of cyan, no black.
fn cmyk() -> PathBuf {
    made("cmyk.jpg", |path| {
        let mut file = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0".to_vec();
        file.extend(b"\xff\xdb\0\x43\0");
        file.extend([1; 64]);
        file.extend(b"\xff\xc0\0\x14\x08\0\x10\0\x10\x04\x01\x11\0\x02\x11\0\x03\x11\0\x04\x11\0");
        // Sizes of differences: 0 is the code `0`, 9 is `10`, 10 is `110`. No other coefficient: `0`.
        file.extend(b"\xff\xc4\0\x16\0\x01\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x00\x09\x0a");
        file.extend(b"\xff\xc4\0\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00");
        file.extend(b"\xff\xda\0\x0e\x04\x01\0\x02\0\x03\0\x04\0\0\x3f\0");
        // Adobe stores inks inverted. Cyan 191: a difference of 504, the others 255: 1016.
        let mut bits = String::from("10") + &format!("{:09b}", 504) + "0";
        for _ in 0..3 {
            bits += &("110".to_owned() + &format!("{:010b}", 1016) + "0");
        }
        bits += &"00".repeat(4 * 3);
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        for byte in bits.as_bytes().chunks(8) {
            let byte = u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap();
            file.push(byte);
            if byte == 0xff {
                file.push(0);
            }
        }
        file.extend(b"\xff\xd9");
        fs::write(path, file).unwrap();
    })
}

#[tokio::test]
async fn a_picture_of_four_inks_becomes_red_green_and_blue() {
    let made = perform("convert_image", json!({"format": "png"}), &[&cmyk()]).await;
    assert_eq!(made.size(), (16, 16));
    Frames::of(made.path(), (16, 16)).check((8, 8), [191, 255, 255], 4);
}

/// The head of a colour profile for red, green and blue, with a text to find.
fn profile() -> Vec<u8> {
    let mut profile = vec![0; 300];
    profile[..4].copy_from_slice(&300u32.to_be_bytes());
    profile[12..24].copy_from_slice(b"mntrRGB XYZ ");
    profile[36..40].copy_from_slice(b"acsp");
    profile[132..146].copy_from_slice(b"PROFILE-MARKER");
    profile
}

fn profiled(name: &str, from: &std::path::Path) -> PathBuf {
    let icc = made("profile.icc", |path| fs::write(path, profile()).unwrap());
    let tag = format!("-icc_profile<={}", icc.display());
    told(name, from, &[&tag])
}

#[tokio::test]
async fn a_colour_profile_is_kept() {
    let jpeg = profiled("profiled.jpg", &photo());
    let png = profiled("profiled.png", &halves());
    for (source, format) in [
        (&jpeg, "png"),
        (&jpeg, "webp"),
        (&png, "jpeg"),
        (&png, "png"),
    ] {
        let made = perform("convert_image", json!({"format": format}), &[source]).await;
        let kept = crate::studio::profile_of(made.path());
        assert_eq!(kept, profile(), "{format}");
    }
    let failure = crate::studio::failure("convert_image", json!({"format": "avif"}), &[&png]).await;
    assert_eq!(failure.code, "unsupported_profile");
    let stripped = perform("strip_metadata", json!({}), &[&jpeg]).await;
    assert_eq!(crate::studio::profile_of(stripped.path()), profile());
}

/// A profile with the primaries of Display P3 and nothing else.
fn display_p3() -> Vec<u8> {
    let mut icc = profile();
    icc.resize(228, 0);
    icc[..4].copy_from_slice(&228u32.to_be_bytes());
    icc[128..132].copy_from_slice(&3u32.to_be_bytes());
    let colours = [
        (b"rXYZ", [33_759i32, 15_807, -72]),
        (b"gXYZ", [19_137, 45_364, 2_746]),
        (b"bXYZ", [10_296, 4_365, 51_387]),
    ];
    for (place, (name, coordinates)) in colours.into_iter().enumerate() {
        let (entry, at) = (132 + place * 12, 168 + place * 20);
        icc[entry..entry + 4].copy_from_slice(name);
        icc[entry + 4..entry + 8].copy_from_slice(&(at as u32).to_be_bytes());
        icc[entry + 8..entry + 12].copy_from_slice(&20u32.to_be_bytes());
        icc[at..at + 8].copy_from_slice(b"XYZ \0\0\0\0");
        for (number, coordinate) in coordinates.into_iter().enumerate() {
            let at = at + 8 + number * 4;
            icc[at..at + 4].copy_from_slice(&coordinate.to_be_bytes());
        }
    }
    icc
}

#[tokio::test]
async fn an_avif_tells_the_wide_colours_of_phones() {
    let wide = made("wide.png", |path| {
        let told = picture::Told {
            profile: Some(display_p3()),
            ..picture::Told::default()
        };
        let file = picture::tell(MediaKind::Png, fs::read(halves()).unwrap(), &told);
        fs::write(path, file.unwrap()).unwrap();
    });
    let made = perform("convert_image", json!({"format": "avif"}), &[&wide]).await;
    assert_eq!(made.stream("video")["color_primaries"], "smpte432");
    let plain = perform("convert_image", json!({"format": "avif"}), &[&halves()]).await;
    assert_eq!(plain.stream("video")["color_primaries"], "bt709");
}

#[tokio::test]
async fn a_picture_that_is_worked_on_tells_nothing_of_people_and_places() {
    let canary = told("camera.jpg", &photo(), &OF_A_CAMERA);
    for (operation, params) in [
        ("resize_image", json!({"width": 32})),
        ("crop_image", json!({"width": 32, "height": 32})),
        ("convert_image", json!({"format": "webp"})),
        ("convert_image", json!({"format": "avif"})),
        ("thumbnail", json!({})),
    ] {
        let made = perform(operation, params, &[&canary]).await;
        made.check_silent();
    }
    let kept = json!({"width": 32, "keep_metadata": true});
    let made = perform("resize_image", kept, &[&canary]).await;
    let tags = tags(made.path());
    assert_eq!(tags["IFD0:Make"], "canary-camera");
    assert_eq!(tags["XMP-dc:Creator"], "canary-creator");
    let sideways = told("camera-turned.jpg", &canary, &["-n", "-EXIF:Orientation=8"]);
    let kept = json!({"format": "png", "keep_metadata": true});
    let made = perform("convert_image", kept, &[&sideways]).await;
    assert_eq!(made.size(), (48, 64));
    let tags = crate::studio::tags(made.path());
    assert_eq!(tags["IFD0:Make"], "canary-camera");
    assert_eq!(tags["IFD0:Orientation"], 1);
    assert_eq!(probed(made.path())["streams"][0]["width"], 48);
}
