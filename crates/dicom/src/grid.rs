//! Volumes of one study on one grid.

use glioseg_volume::resample::{Interpolation, affine};
use glioseg_volume::{Affine, Geometry, Turn, TurnRule, Volume};

use crate::role::Role;
use crate::{DicomError, Stack};

/// Grids whose voxels lie this near to each other are one.
const SAME_MM: f64 = 1e-3;
/// A channel should show this share of the reference's field of view.
const OVERLAP: f64 = 0.95;
/// Places along each axis that the overlap is tried at.
const TRIED: usize = 32;

/// The channels of a case.
#[derive(Debug)]
pub struct OneGrid {
    /// The contrasts with their volumes, all on one grid, in the order asked for.
    pub channels: Vec<(Role, Volume)>,
    /// How the reference's array was turned: towards L, P and S, so that an axial network sees axial slices.
    pub turn: Turn,
    /// What was done and what looks odd, in words.
    pub notes: Vec<String>,
}

/// Reads volumes and brings them onto the grid of one of them, which is turned but never resampled.
///
/// Values between voxels are linear, and 0 outside of a volume. Positions are those of the headers: nothing is registered, so all
/// volumes must be told in one frame of reference, unless `assume_aligned`.
///
/// # Errors
/// [`DicomError::DifferentFrames`]; [`DicomError::UnknownSeries`] if `reference` is not among the volumes; errors of reading.
pub fn one_grid(
    chosen: &[(Role, &Stack)],
    reference: Role,
    assume_aligned: bool,
) -> Result<OneGrid, DicomError> {
    let Some((_, centre)) = chosen.iter().find(|(role, _)| *role == reference) else {
        let known: Vec<&str> = chosen.iter().map(|(role, _)| role.name()).collect();
        return Err(DicomError::UnknownSeries { series: reference.to_string(), known: known.join(", ") });
    };
    let mut notes = Vec::new();
    for (_, stack) in chosen {
        let (a, b) = (centre.frame_of_reference(), stack.frame_of_reference());
        if a != b || a.is_none() {
            if !assume_aligned {
                return Err(DicomError::DifferentFrames {
                    first: centre.name.clone(),
                    second: stack.name.clone(),
                });
            }
            notes.push(format!(
                "series {} and {} are taken to lie in one frame of reference",
                centre.name, stack.name
            ));
        }
    }
    let turn = turn_to_lps(&centre.geometry);
    let grid = centre.geometry.turned(&turn);
    let channels = chosen.iter().map(|(role, stack)| {
        let volume = stack.read()?;
        if same_place(&stack.geometry, &centre.geometry) {
            let data = turn.apply(volume.data, stack.geometry.shape);
            return on_grid(*role, data, &grid);
        }
        let to_input = index_map(&grid, &stack.geometry)?;
        let seen = overlap(&grid, &stack.geometry, &to_input);
        if seen < OVERLAP {
            notes.push(format!(
                "series {} shows {:.0} % of the field of view of series {}; it is 0 elsewhere",
                stack.name,
                100.0 * seen,
                centre.name
            ));
        }
        let data = affine(&volume.data, stack.geometry.shape, grid.shape, &to_input, Interpolation::Linear);
        on_grid(*role, data, &grid)
    });
    let channels = channels.collect::<Result<Vec<_>, DicomError>>()?;
    Ok(OneGrid { channels, turn, notes })
}

fn on_grid(role: Role, data: Vec<f32>, grid: &Geometry) -> Result<(Role, Volume), DicomError> {
    let volume = Volume::new(1, data, grid.clone());
    let volume = volume.map_err(|e| DicomError::Place { series: role.to_string(), reason: e.to_string() })?;
    Ok((role, volume))
}

/// Turns towards L, P and S: those that BraTS images have.
fn turn_to_lps(geometry: &Geometry) -> Turn {
    let ras = geometry.turn_to_ras(TurnRule::Nibabel);
    Turn { axes: ras.axes, flip: [ras.flip[0], !ras.flip[1], !ras.flip[2]] }
}

/// From an index (x, y, z) of one grid to the place in another.
fn index_map(from: &Geometry, to: &Geometry) -> Result<Affine, DicomError> {
    let inverse = to.affine().inverse();
    let inverse =
        inverse.map_err(|e| DicomError::Place { series: "a series".into(), reason: e.to_string() })?;
    Ok(inverse.compose(&from.affine()))
}

fn corners([z, y, x]: [usize; 3]) -> impl Iterator<Item = [f64; 3]> {
    let end = [x, y, z].map(|n| n.saturating_sub(1) as f64);
    (0..8usize).map(move |i| [0, 1, 2].map(|a| if i >> a & 1 == 1 { end[a] } else { 0.0 }))
}

pub(crate) fn same_place(a: &Geometry, b: &Geometry) -> bool {
    let (to_a, to_b) = (a.affine(), b.affine());
    a.shape == b.shape
        && corners(a.shape).all(|corner| {
            let (p, q) = (to_a.apply(corner), to_b.apply(corner));
            (0..3).all(|w| (p[w] - q[w]).abs() <= SAME_MM)
        })
}

/// The share of `grid` that lies within `other`.
fn overlap(grid: &Geometry, other: &Geometry, to_other: &Affine) -> f64 {
    let [nz, ny, nx] = grid.shape;
    let end = [other.shape[2], other.shape[1], other.shape[0]].map(|n| n as f64 - 0.5);
    let place = |n: usize, i: usize| (n as f64 - 1.0) * (i as f64 + 0.5) / TRIED as f64;
    let mut inside = 0usize;
    for z in 0..TRIED {
        for y in 0..TRIED {
            for x in 0..TRIED {
                let at = to_other.apply([place(nx, x), place(ny, y), place(nz, z)]);
                inside += usize::from((0..3).all(|a| (-0.5..=end[a]).contains(&at[a])));
            }
        }
    }
    inside as f64 / TRIED.pow(3) as f64
}
