//! Loads a model and segments an image in memory: `cargo run -p glioseg-infer --example segment_one [MODEL]`.
#![expect(clippy::print_stdout, reason = "an example that shows its result")]

use glioseg_infer::{CaseImages, PredictOptions, Predictor, Watch};
use glioseg_volume::phantom::{PhantomOptions, phantom};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "fixtures/phantom-model".into());
    let predictor = Predictor::open(&[model.into()], PredictOptions::default())?;
    let head = PhantomOptions { shape: [44, 42, 40], spacing_mm: [4.0; 3], ..PhantomOptions::default() };
    let case = CaseImages::new("phantom", phantom(&head)?.channels);
    let prediction = predictor.predict(case, &Watch::default())?;
    for (region, ml) in &prediction.record.volume_ml {
        println!("{region}: {ml:.1} mL");
    }
    Ok(())
}
