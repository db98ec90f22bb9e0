//! `progress.png`: losses and Dice, learning rate, seconds per epoch, as nnU-Net draws them.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;

use embedded_graphics::mono_font::{MonoTextStyle, ascii::FONT_9X15};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use glioseg_formats::{FormatError, atomic};

use super::EpochRecord;

const WIDTH: u32 = 1200;
/// Heights of the three panels.
const PANELS: [u32; 3] = [520, 240, 240];
const MARGIN: [i32; 4] = [90, 60, 40, 60];
/// Blue, red, green, orange, grey: told apart also without colour vision, with the order in the legend.
const COLOURS: [Rgb888; 5] = [
    Rgb888::new(0, 90, 200),
    Rgb888::new(205, 40, 40),
    Rgb888::new(0, 140, 80),
    Rgb888::new(220, 130, 0),
    Rgb888::new(120, 120, 120),
];
const INK: Rgb888 = Rgb888::new(40, 40, 40);
const GRID: Rgb888 = Rgb888::new(225, 225, 225);

/// An image in memory.
struct Canvas {
    size: Size,
    pixels: Vec<u8>,
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let (width, height) = (self.size.width as i32, self.size.height as i32);
        for Pixel(at, colour) in pixels {
            if (0..width).contains(&at.x) && (0..height).contains(&at.y) {
                let i = 3 * (at.y * width + at.x) as usize;
                self.pixels[i..i + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

impl Canvas {
    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Rgb888, width: u32) {
        let point = |(x, y): (f64, f64)| Point::new(x.round() as i32, y.round() as i32);
        let line = Line::new(point(from), point(to)).into_styled(PrimitiveStyle::with_stroke(colour, width));
        let Ok(()) = line.draw(self);
    }

    fn text(&mut self, text: &str, at: (i32, i32), alignment: Alignment, colour: Rgb888) {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let font = MonoTextStyle::new(&FONT_9X15, colour);
        let Ok(_) = Text::with_text_style(text, Point::new(at.0, at.1), font, style).draw(self);
    }
}

/// A curve: values per epoch, some of which may be missing.
struct Curve<'a> {
    name: &'a str,
    values: Vec<Option<f64>>,
}

/// Where values lie on the canvas.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    low: f64,
    high: f64,
    epochs: usize,
}

impl Frame {
    fn x(&self, epoch: usize) -> f64 {
        let last = self.epochs.saturating_sub(1).max(1) as f64;
        self.left + (self.right - self.left) * epoch as f64 / last
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)
    }
}

/// Draws the history and replaces the file.
pub(super) fn draw(path: &Path, history: &[EpochRecord]) -> Result<(), FormatError> {
    let height = PANELS.iter().sum();
    let size = Size::new(WIDTH, height);
    let mut canvas = Canvas { size, pixels: vec![255; 3 * (WIDTH * height) as usize] };
    let column = |of: fn(&EpochRecord) -> Option<f64>| history.iter().map(of).collect();
    let panels = [
        vec![
            Curve { name: "training loss", values: column(|r| Some(r.train_loss)) },
            Curve { name: "validation loss", values: column(|r| Some(r.val_loss)) },
            Curve { name: "pseudo Dice", values: column(|r| r.mean_dice) },
            Curve { name: "moving average", values: column(|r| r.ema_dice) },
        ],
        vec![Curve { name: "seconds per epoch", values: column(|r| Some(r.seconds)) }],
        vec![Curve { name: "learning rate", values: column(|r| Some(r.lr)) }],
    ];
    let mut top = 0;
    for (curves, height) in panels.iter().zip(PANELS) {
        panel(&mut canvas, curves, top, top + height as i32, history.len());
        top += height as i32;
    }
    atomic::write(path, |file| {
        let mut encoder = png::Encoder::new(&mut *file, WIDTH, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&canvas.pixels)?;
        writer.finish()?;
        file.flush()
    })
}

fn panel(canvas: &mut Canvas, curves: &[Curve<'_>], top: i32, bottom: i32, epochs: usize) {
    let values = || curves.iter().flat_map(|c| c.values.iter().copied().flatten()).filter(|v| v.is_finite());
    let (mut low, mut high) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let step = tick(high - low);
    (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    if high - low < step {
        high = low + step;
    }
    let frame = Frame {
        left: f64::from(MARGIN[0]),
        right: f64::from(WIDTH as i32 - MARGIN[2]),
        top: f64::from(top + MARGIN[3] - 20),
        bottom: f64::from(bottom - MARGIN[1]),
        low,
        high,
        epochs,
    };
    for i in 0..=((high - low) / step).round() as usize {
        let value = low + i as f64 * step;
        let y = frame.y(value);
        canvas.line((frame.left, y), (frame.right, y), GRID, 1);
        canvas.text(&number(value), (frame.left as i32 - 8, y as i32), Alignment::Right, INK);
    }
    let every = tick(epochs.saturating_sub(1).max(1) as f64).max(1.0) as usize;
    for epoch in (0..epochs.max(1)).step_by(every) {
        let x = frame.x(epoch);
        canvas.line((x, frame.bottom), (x, frame.bottom + 5.0), INK, 1);
        canvas.text(&epoch.to_string(), (x as i32, frame.bottom as i32 + 16), Alignment::Center, INK);
    }
    let outline = Rectangle::new(
        Point::new(frame.left as i32, frame.top as i32),
        Size::new((frame.right - frame.left) as u32, (frame.bottom - frame.top) as u32),
    );
    let Ok(()) = outline.into_styled(PrimitiveStyle::with_stroke(INK, 1)).draw(canvas);
    canvas.text("epoch", (frame.right as i32, frame.bottom as i32 + 38), Alignment::Right, INK);
    let mut legend = frame.left as i32;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let at = frame.top as i32 - 16;
        canvas.line((f64::from(legend), f64::from(at)), (f64::from(legend + 24), f64::from(at)), colour, 3);
        canvas.text(curve.name, (legend + 32, at), Alignment::Left, INK);
        legend += 32 + 9 * curve.name.len() as i32 + 30;
        let mut last: Option<(f64, f64)> = None;
        for (epoch, value) in curve.values.iter().enumerate() {
            let now = value.filter(|v| v.is_finite()).map(|v| (frame.x(epoch), frame.y(v)));
            if let Some(to) = now {
                // A point alone is seen too.
                canvas.line(last.unwrap_or((to.0 - 1.0, to.1)), to, colour, 2);
            }
            last = now;
        }
    }
}

/// A round distance that divides a range into four to ten parts.
fn tick(range: f64) -> f64 {
    if !(range.is_finite() && range > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf((range / 8.0).log10().floor());
    let parts = [1.0, 2.0, 5.0, 10.0];
    parts.into_iter().map(|p| p * power).find(|t| range / t <= 10.0).unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        format!("{value:.1e}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: usize) -> EpochRecord {
        let falling = 1.0 / (epoch + 1) as f64;
        EpochRecord {
            epoch,
            lr: 0.01 * falling,
            train_loss: falling - 0.5,
            val_loss: falling - 0.4,
            dice: vec![],
            mean_dice: (epoch != 1).then_some(1.0 - falling),
            ema_dice: Some(0.9 - falling),
            best: false,
            gradient_norm: 1.0,
            seconds: 30.0,
            ended: 0.0,
        }
    }

    #[test]
    fn a_picture_comes_out_whatever_the_history() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("progress.png");
        for epochs in [0, 1, 2, 37, 1000] {
            let history: Vec<EpochRecord> = (0..epochs).map(record).collect();
            draw(&path, &history).expect("drawn");
            let file = std::io::BufReader::new(std::fs::File::open(&path).expect("the file"));
            let mut reader = png::Decoder::new(file).read_info().expect("a picture");
            let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
            let info = reader.next_frame(&mut pixels).expect("pixels");
            assert_eq!((info.width, info.height), (WIDTH, PANELS.iter().sum()));
            let blue = pixels.chunks(3).filter(|p| *p == [0, 90, 200]).count();
            assert!(blue > 24 * 3, "{epochs} epochs: {blue}");
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        for (range, expected) in [(1.0, 0.1), (0.9, 0.1), (7.0, 1.0), (999.0, 100.0), (0.0, 1.0), (1.7, 0.2)]
        {
            assert!((tick(range) - expected).abs() < 1e-12, "{range}: {}", tick(range));
        }
        let words = [0.0, 0.25, -1.0, 0.0001, 2e6].map(number);
        assert_eq!(words, ["0", "0.25", "-1", "1.0e-4", "2.0e6"]);
    }
}
