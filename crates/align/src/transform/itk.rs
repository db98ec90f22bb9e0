//! ITK's files of linear transforms: text (`.tfm`, `.txt`) and MATLAB's level 4 (`.mat`).
//!
//! Both hold the name of a class with its parameters and, as fixed parameters, a centre. A linear transform about a centre is
//! `x ↦ M (x - c) + c + t`.
//!
//! # Source
//! ITK 5.4, `TxtTransformIO`, `MatlabTransformIO` with `vnl_matlab_header`, and the classes' `SetParameters`.

type Rows = [[f64; 4]; 3];
type Matrix = [[f64; 3]; 3];

const AFFINE: &str = "AffineTransform_double_3_3";
const HEAD: &str = "#Insight Transform File V1.0";
/// What a class name may be long.
const LONGEST_NAME: usize = 256;
/// More numbers than any linear transform has.
const MOST_NUMBERS: usize = 64;

/// One transform of a file.
struct Part {
    class: String,
    parameters: Vec<f64>,
    fixed: Vec<f64>,
}

/// The text of a file with one or more transforms.
pub(super) fn from_text(text: &str) -> Result<Rows, String> {
    let mut parts: Vec<Part> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("a line without a colon: {line}"))?;
        if key == "Transform" {
            parts.push(Part { class: value.trim().to_owned(), parameters: Vec::new(), fixed: Vec::new() });
            continue;
        }
        let part = parts.last_mut().ok_or("numbers before the name of the transform")?;
        match key {
            "Parameters" => part.parameters = numbers(value)?,
            "FixedParameters" => part.fixed = numbers(value)?,
            _ => return Err(format!("unknown line `{key}`")),
        }
    }
    combined(&parts)
}

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_| format!("`{word}` is not a number")))
        .collect()
}

/// Vectors by name, two for each transform.
pub(super) fn from_matlab(bytes: &[u8]) -> Result<Rows, String> {
    let mut vectors = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        vectors.push(vector(&mut rest)?);
    }
    let mut parts = Vec::new();
    for pair in vectors.chunks(2) {
        match pair {
            [(class, parameters), (name, fixed)] if name == "fixed" => {
                parts.push(Part {
                    class: class.clone(),
                    parameters: parameters.clone(),
                    fixed: fixed.clone(),
                });
            }
            _ => return Err("a transform without its fixed parameters".to_owned()),
        }
    }
    combined(&parts)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(count).ok_or("the file ends too early")?;
    *rest = left;
    Ok(taken)
}

/// One vector of MATLAB's level 4 with its name.
fn vector(rest: &mut &[u8]) -> Result<(String, Vec<f64>), String> {
    let head = take(rest, 20)?;
    let word = |i: usize| [head[4 * i], head[4 * i + 1], head[4 * i + 2], head[4 * i + 3]];
    // The type is a number of four digits: byte order, 0, precision, matrix. Big-endian files say 1000 in their own order.
    let little = i32::from_le_bytes(word(0));
    let big_endian = !(0..1000).contains(&little);
    let int = |i: usize| if big_endian { i32::from_be_bytes(word(i)) } else { i32::from_le_bytes(word(i)) };
    let kind = if big_endian { int(0) - 1000 } else { int(0) };
    // Hundreds say how a matrix is stored, which does not matter for a vector.
    let single = match kind % 100 {
        0 => false,
        10 => true,
        _ => return Err("it is neither text nor a MATLAB file of level 4".to_owned()),
    };
    let size = |i: usize| usize::try_from(int(i)).map_err(|_| "a negative length".to_owned());
    let (rows, columns, imaginary, name) = (size(1)?, size(2)?, int(3), size(4)?);
    let count = rows.saturating_mul(columns);
    if kind >= 1000 || imaginary != 0 || count > MOST_NUMBERS || name == 0 || name > LONGEST_NAME {
        return Err("it does not hold the numbers of a linear transform".to_owned());
    }
    let name = String::from_utf8_lossy(take(rest, name)?).trim_end_matches('\0').to_owned();
    let values = if single {
        take(rest, 4 * count)?.chunks_exact(4).map(|b| f64::from(single_of(b, big_endian))).collect()
    } else {
        take(rest, 8 * count)?.chunks_exact(8).map(|b| double_of(b, big_endian)).collect()
    };
    Ok((name, values))
}

fn single_of(bytes: &[u8], big_endian: bool) -> f32 {
    let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if big_endian { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) }
}

fn double_of(bytes: &[u8], big_endian: bool) -> f64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(bytes);
    if big_endian { f64::from_be_bytes(eight) } else { f64::from_le_bytes(eight) }
}

/// One transform, or a composite: ITK applies the last of its parts first.
fn combined(parts: &[Part]) -> Result<Rows, String> {
    match parts {
        [] => Err("it holds no transform".to_owned()),
        [one] => linear(one),
        [first, rest @ ..] if first.class.starts_with("CompositeTransform") => {
            let mut rows = super::Transform::IDENTITY;
            for part in rest {
                rows = rows.after(&super::Transform::of_rows(linear(part)?));
            }
            Ok(rows.rows())
        }
        _ => Err(format!("it holds {} transforms that are not one composite", parts.len())),
    }
}

/// The rows of a transform of one of the classes that are linear.
fn linear(part: &Part) -> Result<Rows, String> {
    let class = part.class.split('_').next().unwrap_or_default();
    let p = &part.parameters;
    let wanted = match class {
        "AffineTransform" | "MatrixOffsetTransformBase" => 12,
        "Euler3DTransform" | "VersorRigid3DTransform" => 6,
        "TranslationTransform" => 3,
        "IdentityTransform" => return Ok(super::Transform::IDENTITY.rows()),
        _ => return Err(format!("a {} is not linear, or not known", part.class)),
    };
    if p.len() != wanted || !part.class.ends_with("_3_3") {
        return Err(format!("a {} with {} parameters", part.class, p.len()));
    }
    let shift = [p[wanted - 3], p[wanted - 2], p[wanted - 1]];
    let matrix = match class {
        "TranslationTransform" => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "Euler3DTransform" => euler([p[0], p[1], p[2]], part.fixed.get(3).is_some_and(|&zyx| zyx != 0.0)),
        "VersorRigid3DTransform" => versor([p[0], p[1], p[2]]),
        _ => [0, 1, 2].map(|r| [0, 1, 2].map(|c| p[3 * r + c])),
    };
    let centre = match part.fixed.as_slice() {
        [] => [0.0; 3],
        [x, y, z, ..] => [*x, *y, *z],
        _ => return Err(format!("a centre of {} numbers", part.fixed.len())),
    };
    Ok([0, 1, 2].map(|r| {
        let turned: f64 = (0..3).map(|c| matrix[r][c] * centre[c]).sum();
        [matrix[r][0], matrix[r][1], matrix[r][2], shift[r] + centre[r] - turned]
    }))
}

/// Rotations by angles (rad) about x, y and z; the one about y acts first, or, with `zyx`, that about x.
fn euler(angles: [f64; 3], zyx: bool) -> Matrix {
    let [(sx, cx), (sy, cy), (sz, cz)] = angles.map(f64::sin_cos);
    let x = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
    let y = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
    let z = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
    if zyx { product(z, product(y, x)) } else { product(z, product(x, y)) }
}

fn product(a: Matrix, b: Matrix) -> Matrix {
    [0, 1, 2].map(|r| [0, 1, 2].map(|c| (0..3).map(|k| a[r][k] * b[k][c]).sum()))
}

/// The rotation of a quaternion of length 1, of which x, y and z are given.
fn versor([x, y, z]: [f64; 3]) -> Matrix {
    let w = (1.0 - x * x - y * y - z * z).max(0.0).sqrt();
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

/// The twelve parameters of an affine transform about the origin.
fn parameters(rows: &Rows) -> [f64; 12] {
    let mut all = [0.0; 12];
    for (r, row) in rows.iter().enumerate() {
        all[3 * r..3 * r + 3].copy_from_slice(&row[..3]);
        all[9 + r] = row[3];
    }
    all
}

pub(super) fn to_matlab(rows: &Rows) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, values) in [(AFFINE, &parameters(rows)[..]), ("fixed", &[0.0; 3])] {
        for word in [0, values.len() as i32, 1, 0, name.len() as i32 + 1] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes
}

pub(super) fn to_text(rows: &Rows) -> String {
    let numbers: Vec<String> = parameters(rows).iter().map(ToString::to_string).collect();
    format!(
        "{HEAD}\n#Transform 0\nTransform: {AFFINE}\nParameters: {}\nFixedParameters: 0 0 0\n",
        numbers.join(" ")
    )
}
