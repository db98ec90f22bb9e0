//! What a made case promises.

use glioseg_volume::VolumeError;
use glioseg_volume::phantom::{Phantom, PhantomOptions, Tumour, phantom};

fn made(options: &PhantomOptions) -> Phantom {
    phantom(options).expect("valid options")
}

fn small(seed: u64, tumour: Tumour) -> Phantom {
    made(&PhantomOptions { shape: [48; 3], seed, tumour, ..PhantomOptions::default() })
}

/// Mean of a channel where `keep` holds of the label.
fn mean(case: &Phantom, channel: usize, label: u16) -> f64 {
    let values = case.channels.channel(channel).iter().zip(&case.labels.data);
    let chosen: Vec<f64> = values.filter(|&(_, &l)| l == label).map(|(&v, _)| f64::from(v)).collect();
    assert!(!chosen.is_empty(), "no voxel of label {label}");
    chosen.iter().sum::<f64>() / chosen.len() as f64
}

#[test]
fn the_same_options_make_the_same_case_with_any_number_of_threads() {
    let options = PhantomOptions { shape: [40, 48, 36], seed: 5, ..PhantomOptions::default() };
    let in_pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| made(&options))
    };
    let one = in_pool(1);
    assert!(one == in_pool(3), "the case depends on the thread count");
    let other = made(&PhantomOptions { seed: 6, ..options });
    assert!(one.channels.data != other.channels.data && one.labels.data != other.labels.data);
}

#[test]
fn background_is_0_in_every_channel_and_brain_in_none() {
    let case = small(1, Tumour::Any);
    let mut brain = 0;
    for i in 0..case.labels.data.len() {
        let values = [0, 1, 2, 3].map(|c| case.channels.channel(c)[i]);
        let inside = values[0] > 0.0;
        assert!(values.iter().all(|&v| (v > 0.0) == inside && v.fract() == 0.0), "voxel {i}: {values:?}");
        assert!(inside || case.labels.data[i] == 0, "a label outside the brain");
        brain += usize::from(inside);
    }
    let share = brain as f64 / case.labels.data.len() as f64;
    assert!((0.1..0.5).contains(&share), "{share} of the image is brain");
    // Nothing touches the border, so that cropping has something to crop.
    let [depth, height, width] = case.labels.shape();
    for (i, &v) in case.channels.channel(0).iter().enumerate() {
        let [z, y, x] = [i / (height * width), i / width % height, i % width];
        let inside =
            (1..depth - 1).contains(&z) && (1..height - 1).contains(&y) && (1..width - 1).contains(&x);
        assert!(inside || v == 0.0, "brain on the border at {z}, {y}, {x}");
    }
}

#[test]
fn kinds_of_tumour_have_their_labels() {
    for seed in 0..4 {
        let labels = |kind| -> Vec<u16> { small(seed, kind).labels.counts().into_keys().collect() };
        assert_eq!(labels(Tumour::None), [0], "seed {seed}");
        assert_eq!(labels(Tumour::Enhancing), [0, 1, 2, 3], "seed {seed}");
        assert_eq!(labels(Tumour::NonEnhancing), [0, 1, 2], "seed {seed}");
        assert_eq!(labels(Tumour::Multifocal), [0, 1, 2, 3], "seed {seed}");
        let tiny = small(seed, Tumour::Tiny).labels;
        let large = small(seed, Tumour::Enhancing).labels;
        let size = tiny.count_of(&[1, 2, 3]);
        assert!(size >= 8 && tiny.count_of(&[3]) > 0, "seed {seed}: {:?}", tiny.counts());
        assert!(3 * size < large.count_of(&[1, 2, 3]), "seed {seed}: {size} of {:?}", large.counts());
    }
}

#[test]
fn any_tumour_is_with_and_without_enhancement() {
    let enhancing = (0..16).filter(|&seed| small(seed, Tumour::Any).labels.count_of(&[3]) > 0).count();
    assert!((8..16).contains(&enhancing), "{enhancing} of 16 enhance");
}

#[test]
fn channels_show_what_they_show_in_a_scanner() {
    for seed in 0..4 {
        let case = small(seed, Tumour::Enhancing);
        let healthy = |c| mean_brain(&case, c);
        let [t1, t1ce, t2, flair] = [0, 1, 2, 3];
        assert!(mean(&case, t1ce, 3) > 1.5 * healthy(t1ce), "the rim takes up contrast agent");
        assert!(mean(&case, t1, 3) < 1.2 * healthy(t1), "and is not bright without it");
        assert!(mean(&case, flair, 1) > 1.4 * healthy(flair), "oedema is bright in FLAIR");
        assert!(mean(&case, t2, 2) > 1.2 * healthy(t2), "a core is bright in T2");
        assert!(mean(&case, t1, 2) < 0.9 * healthy(t1), "and dark in T1");
    }
}

fn mean_brain(case: &Phantom, channel: usize) -> f64 {
    let values = case.channels.channel(channel).iter().zip(&case.labels.data);
    let chosen: Vec<f64> = values.filter(|&(&v, &l)| l == 0 && v > 0.0).map(|(&v, _)| f64::from(v)).collect();
    chosen.iter().sum::<f64>() / chosen.len() as f64
}

#[test]
fn the_grid_is_as_asked_and_anisotropic_voxels_hold_the_same_head() {
    let fine = made(&PhantomOptions { shape: [60, 60, 60], ..PhantomOptions::default() });
    let flat = made(&PhantomOptions {
        shape: [20, 60, 60],
        spacing_mm: [3.0, 1.0, 1.0],
        ..PhantomOptions::default()
    });
    let spacing = flat.labels.geometry.spacing;
    assert!(spacing.iter().zip([3.0, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{spacing:?}");
    assert_eq!(flat.labels.geometry.orientation(), "LPS");
    let ml = |case: &Phantom| {
        let brain = case.channels.channel(0).iter().filter(|&&v| v > 0.0).count();
        brain as f64 * case.labels.geometry.voxel_ml()
    };
    assert!((ml(&fine) / ml(&flat) - 1.0).abs() < 0.05, "{} and {} mL of brain", ml(&fine), ml(&flat));
}

#[test]
fn voxel_sizes_must_be_positive() {
    for bad in [0.0, -1.0, f64::NAN] {
        let options = PhantomOptions { spacing_mm: [1.0, bad, 1.0], ..PhantomOptions::default() };
        assert!(matches!(phantom(&options), Err(VolumeError::SingularAffine { .. })), "{bad}");
    }
}
