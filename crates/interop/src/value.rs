//! Plain data as it comes out of a pickle.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use serde_json::{Map, Number};

/// What a pickle may hold: data, and references to tensors that lie elsewhere in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 128 bits.
    Int(i128),
    /// A longer integer, two's complement, lowest byte first.
    BigInt(Arc<[u8]>),
    /// A float; numpy's of any width too.
    Float(f64),
    /// Text; also the text form of paths, devices and dtypes.
    Str(Arc<str>),
    /// `bytes` or `bytearray`.
    Bytes(Arc<[u8]>),
    /// A list.
    List(Vec<Value>),
    /// A tuple, or `torch.Size`.
    Tuple(Vec<Value>),
    /// A set or frozen set, in the order of the file.
    Set(Vec<Value>),
    /// A dict of any kind, in insertion order.
    Dict(Vec<(Value, Value)>),
    /// A numpy array.
    Array(Arc<NdArray>),
    /// A torch tensor: where its values are.
    Tensor(Arc<TensorRef>),
    /// An object of another program, of which nothing was made but its class's name.
    Foreign(Arc<str>),
}

impl Value {
    /// The entry of a dict with this key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict(entries) = self else { return None };
        entries.iter().rfind(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// The entries of a dict.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        if let Value::Dict(entries) = self { Some(entries) } else { None }
    }

    /// The items of a list, tuple or set.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => Some(items),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = self { Some(text) } else { None }
    }

    /// A bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(b) = self { Some(*b) } else { None }
    }

    /// An integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Int(i) = self { i64::try_from(*i).ok() } else { None }
    }

    /// A non-negative integer that fits.
    pub fn as_usize(&self) -> Option<usize> {
        if let Value::Int(i) = self { usize::try_from(*i).ok() } else { None }
    }

    /// A float or an integer.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            Value::Int(i) => Some(*i as f64),
            _ => None,
        }
    }

    /// A numpy array.
    pub fn as_array(&self) -> Option<&NdArray> {
        if let Value::Array(array) = self { Some(array) } else { None }
    }

    /// A torch tensor.
    pub fn as_tensor(&self) -> Option<&TensorRef> {
        if let Value::Tensor(tensor) = self { Some(tensor) } else { None }
    }

    /// What it is, in a word, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) | Value::BigInt(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Set(_) => "a set",
            Value::Dict(_) => "a dict",
            Value::Array(_) => "a numpy array",
            Value::Tensor(_) => "a tensor",
            Value::Foreign(_) => "an object of another program",
        }
    }

    /// The same data as JSON, by the conventions of Python's `json.dumps` where it has one.
    ///
    /// Keys that are numbers, bools or `None` become strings, as Python makes them; tuple keys become their text.
    /// `NaN` and the infinities become the strings `"NaN"`, `"Infinity"`, `"-Infinity"`, since JSON has no such
    /// numbers. Tuples, sets and arrays become (nested) lists, bytes a list of numbers, a tensor a string that says
    /// its shape.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::None => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => i64::try_from(*i)
                .map(Number::from)
                .or_else(|_| u64::try_from(*i).map(Number::from))
                .map_or_else(|_| Json::String(i.to_string()), Json::Number),
            Value::BigInt(bytes) => Json::String(format!("integer of {} bytes", bytes.len())),
            Value::Float(f) => float_to_json(*f),
            Value::Str(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => bytes.iter().copied().map(Json::from).collect(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().map(Value::to_json).collect()
            }
            Value::Dict(entries) => {
                let mut map = Map::with_capacity(entries.len());
                for (key, value) in entries {
                    map.insert(key.to_string(), value.to_json());
                }
                Json::Object(map)
            }
            Value::Array(array) => array.to_json(),
            Value::Tensor(tensor) => Json::String(format!("tensor of shape {:?}", tensor.shape)),
            Value::Foreign(name) => Json::String(format!("object of {name}")),
        }
    }
}

fn float_to_json(f: f64) -> serde_json::Value {
    match Number::from_f64(f) {
        Some(number) => number.into(),
        None if f.is_nan() => "NaN".into(),
        None => if f > 0.0 { "Infinity" } else { "-Infinity" }.into(),
    }
}

/// As a key of a JSON object.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Str(text) => f.write_str(text),
            Value::Tuple(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "({})", items.join(", "))
            }
            other => f.write_str(other.kind()),
        }
    }
}

/// Element type of a numpy array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayType {
    /// `bool`.
    Bool,
    /// Signed integer of that many bytes.
    Int(usize),
    /// Unsigned integer of that many bytes.
    UInt(usize),
    /// Float of that many bytes: 2, 4 or 8.
    Float(usize),
    /// Fixed-length text of that many characters.
    Unicode(usize),
    /// Fixed-length bytes.
    Bytes(usize),
}

impl ArrayType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            ArrayType::Bool => 1,
            ArrayType::Unicode(n) => 4 * n,
            ArrayType::Int(n) | ArrayType::UInt(n) | ArrayType::Float(n) | ArrayType::Bytes(n) => n,
        }
    }

    /// One element from its little-endian bytes.
    fn element(self, bytes: &[u8]) -> Value {
        let unsigned = || bytes.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
        match self {
            ArrayType::Bool => Value::Bool(bytes.first().is_some_and(|&b| b != 0)),
            ArrayType::UInt(_) => Value::Int(i128::from(unsigned())),
            ArrayType::Int(n) => {
                let shift = 64 - 8 * n.min(8) as u32;
                Value::Int(i128::from(unsigned().wrapping_shl(shift).cast_signed().wrapping_shr(shift)))
            }
            ArrayType::Float(2) => Value::Float(half::f16::from_bits(unsigned() as u16).to_f64()),
            ArrayType::Float(4) => Value::Float(f64::from(f32::from_bits(unsigned() as u32))),
            ArrayType::Float(_) => Value::Float(f64::from_bits(unsigned())),
            ArrayType::Unicode(_) => {
                let chars = bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
                let text: String =
                    chars.map(|c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
                Value::Str(text.trim_end_matches('\0').into())
            }
            ArrayType::Bytes(_) => {
                let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
                Value::Bytes(bytes[..end].into())
            }
        }
    }
}

/// A numpy array in C order, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct NdArray {
    /// Element type.
    pub dtype: ArrayType,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// The elements' bytes.
    pub data: Vec<u8>,
}

impl NdArray {
    /// The elements in C order.
    pub fn elements(&self) -> impl Iterator<Item = Value> + '_ {
        let size = self.dtype.size();
        let count = self.data.len().checked_div(size).unwrap_or(0);
        (0..count).map(move |i| self.dtype.element(&self.data[i * size..(i + 1) * size]))
    }

    /// The elements as numbers, `None` where they are none.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        self.elements().map(|v| v.as_f64().or_else(|| v.as_bool().map(|b| f64::from(u8::from(b))))).collect()
    }

    /// The elements as integers, `None` where they are none.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        self.elements().map(|v| v.as_i64().or_else(|| v.as_bool().map(i64::from))).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        let mut level: Vec<serde_json::Value> = self.elements().map(|v| v.to_json()).collect();
        for &length in self.shape.iter().skip(1).rev() {
            if length == 0 {
                break;
            }
            level = level.chunks(length).map(|row| row.to_vec().into()).collect();
        }
        if self.shape.is_empty() { level.pop().unwrap_or_default() } else { level.into() }
    }
}

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "torch's own names")]
pub enum TensorType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    U64,
    U32,
    U16,
    /// Elements of that many bytes which are no numbers here: complex or quantised.
    Opaque(usize),
}

impl TensorType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            TensorType::F64 | TensorType::I64 | TensorType::U64 => 8,
            TensorType::F32 | TensorType::I32 | TensorType::U32 => 4,
            TensorType::F16 | TensorType::BF16 | TensorType::I16 | TensorType::U16 => 2,
            TensorType::Opaque(bytes) => bytes,
            TensorType::I8 | TensorType::U8 | TensorType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, TensorType::F64 | TensorType::F32 | TensorType::F16 | TensorType::BF16)
    }

    /// The next `count` elements of a reader, little-endian, as f32; converted in pieces.
    ///
    /// # Errors
    /// Those of the reader, also where it ends early; elements that are no numbers.
    pub fn read(self, reader: &mut impl Read, count: usize) -> io::Result<Vec<f32>> {
        if let TensorType::Opaque(_) = self {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "complex or quantised values"));
        }
        let mut values = Vec::with_capacity(count);
        let mut buffer = vec![0u8; 1 << 16];
        let per_piece = buffer.len() / self.size();
        while values.len() < count {
            let piece = &mut buffer[..per_piece.min(count - values.len()) * self.size()];
            reader.read_exact(piece)?;
            self.append_f32(piece, &mut values);
        }
        Ok(values)
    }

    /// Appends the elements in `bytes` (little-endian, whole elements) as f32.
    fn append_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, f: impl Fn([u8; N]) -> f32) {
            let (elements, _) = bytes.as_chunks::<N>();
            out.extend(elements.iter().map(|&e| f(e)));
        }
        match self {
            TensorType::F64 => each(bytes, out, |e| f64::from_le_bytes(e) as f32),
            TensorType::F32 => each(bytes, out, f32::from_le_bytes),
            TensorType::F16 => each(bytes, out, |e| half::f16::from_le_bytes(e).to_f32()),
            TensorType::BF16 => each(bytes, out, |e| half::bf16::from_le_bytes(e).to_f32()),
            TensorType::I64 => each(bytes, out, |e| i64::from_le_bytes(e) as f32),
            TensorType::I32 => each(bytes, out, |e| i32::from_le_bytes(e) as f32),
            TensorType::I16 => each(bytes, out, |e| f32::from(i16::from_le_bytes(e))),
            TensorType::I8 => each(bytes, out, |e| f32::from(i8::from_le_bytes(e))),
            TensorType::U8 => each(bytes, out, |[e]| f32::from(e)),
            TensorType::Bool => each(bytes, out, |[e]| f32::from(u8::from(e != 0))),
            TensorType::U64 => each(bytes, out, |e| u64::from_le_bytes(e) as f32),
            TensorType::U32 => each(bytes, out, |e| u32::from_le_bytes(e) as f32),
            TensorType::U16 => each(bytes, out, |e| f32::from(u16::from_le_bytes(e))),
            TensorType::Opaque(_) => {}
        }
    }
}

/// A block of values of one type that tensors are views of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageRef {
    /// Its name in the file.
    pub key: Arc<str>,
    /// Element type.
    pub dtype: TensorType,
    /// Elements.
    pub len: usize,
}

/// A tensor: a strided view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// The values.
    pub storage: StorageRef,
    /// First element in the storage.
    pub offset: usize,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, per axis.
    pub stride: Vec<usize>,
}

impl TensorRef {
    /// Number of elements; `None` if the product overflows.
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// Elements of the storage that the view spans from `offset` on; `None` if it leaves the storage.
    pub fn span(&self) -> Option<usize> {
        if self.shape.len() != self.stride.len() {
            return None;
        }
        if self.count()? == 0 {
            return Some(0);
        }
        let mut last = 0usize;
        for (&d, &s) in self.shape.iter().zip(&self.stride) {
            last = last.checked_add(s.checked_mul(d - 1)?)?;
        }
        let span = last.checked_add(1)?;
        (self.offset.checked_add(span)? <= self.storage.len).then_some(span)
    }

    /// Whether the elements lie one after the other in C order.
    pub fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&d, &s) in self.shape.iter().zip(&self.stride).rev() {
            if d != 1 && s != expected {
                return false;
            }
            expected *= d;
        }
        true
    }
}
