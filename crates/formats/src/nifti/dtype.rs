//! Voxel types of NIfTI and their conversion to f32.

/// A voxel type that holds one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// 8 bits, unsigned.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// 32-bit floating point.
    F32,
    /// 64-bit floating point.
    F64,
}

impl DType {
    /// The type of a header's `datatype`, or the name of one that holds no single number.
    pub(crate) const fn from_code(code: i16) -> Result<Self, &'static str> {
        Ok(match code {
            2 => Self::U8,
            4 => Self::I16,
            8 => Self::I32,
            16 => Self::F32,
            64 => Self::F64,
            256 => Self::I8,
            512 => Self::U16,
            768 => Self::U32,
            1024 => Self::I64,
            1280 => Self::U64,
            1 => return Err("single bits"),
            32 => return Err("complex numbers of 2 x 32 bits"),
            128 => return Err("RGB colours"),
            1536 => return Err("128-bit floats"),
            1792 => return Err("complex numbers of 2 x 64 bits"),
            2048 => return Err("complex numbers of 2 x 128 bits"),
            2304 => return Err("RGBA colours"),
            _ => return Err("an unknown type"),
        })
    }

    /// The header's `datatype`.
    pub(crate) const fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I16 => 4,
            Self::I32 => 8,
            Self::F32 => 16,
            Self::F64 => 64,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::U32 => 768,
            Self::I64 => 1024,
            Self::U64 => 1280,
        }
    }

    /// Bytes of a voxel.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The name as in Rust and (nearly) numpy: `u8`, `i16`, `f32`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The first of the values that [`DType::decode`] made infinite though the stored one is finite: its index and itself.
    pub(crate) fn beyond_single(
        self,
        big_endian: bool,
        scale: Option<(f64, f64)>,
        bytes: &[u8],
        decoded: &[f32],
    ) -> Option<(usize, f64)> {
        if self != Self::F64 && scale.is_none() {
            return None;
        }
        let (slope, inter) = scale.unwrap_or((1.0, 0.0));
        decoded.iter().enumerate().filter(|(_, v)| v.is_infinite()).find_map(|(i, _)| {
            let raw = &bytes[i * self.size()..][..self.size()];
            let stored = match (self, <[u8; 8]>::try_from(raw)) {
                (Self::F64, Ok(raw)) if big_endian => f64::from_be_bytes(raw),
                (Self::F64, Ok(raw)) => f64::from_le_bytes(raw),
                _ => {
                    let mut single = [0.0];
                    self.decode(big_endian, None, raw, &mut single);
                    f64::from(single[0])
                }
            };
            let value = stored * slope + inter;
            value.is_finite().then_some((i, value))
        })
    }

    /// Converts stored voxels to f32, with `scale` = (slope, intercept) where the header has one.
    ///
    /// # Source
    /// ITK, `RescaleFunction`: integers go to f32 first, the scaling is done in f64, the result is f32 again.
    ///
    /// # Panics
    /// If `bytes` is not as long as `out` needs.
    #[expect(clippy::cast_lossless, reason = "one body for every type; some casts round")]
    pub(crate) fn decode(self, big_endian: bool, scale: Option<(f64, f64)>, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.size(), "bytes of {} voxels of {}", out.len(), self.name());
        macro_rules! convert {
            ($type:ty, $widen:expr) => {{
                let (raw, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                let pairs = out.iter_mut().zip(raw);
                match (big_endian, scale) {
                    (false, None) => pairs.for_each(|(o, b)| *o = <$type>::from_le_bytes(*b) as f32),
                    (true, None) => pairs.for_each(|(o, b)| *o = <$type>::from_be_bytes(*b) as f32),
                    (_, Some((slope, inter))) => pairs.for_each(|(o, b)| {
                        let value =
                            if big_endian { <$type>::from_be_bytes(*b) } else { <$type>::from_le_bytes(*b) };
                        let wide: f64 = $widen(value);
                        *o = (wide * slope + inter) as f32;
                    }),
                }
            }};
            ($type:ty) => {
                convert!($type, |value: $type| f64::from(value as f32))
            };
        }
        match self {
            Self::U8 => convert!(u8),
            Self::I8 => convert!(i8),
            Self::U16 => convert!(u16),
            Self::I16 => convert!(i16),
            Self::U32 => convert!(u32),
            Self::I32 => convert!(i32),
            Self::U64 => convert!(u64),
            Self::I64 => convert!(i64),
            Self::F32 => convert!(f32, |value: f32| f64::from(value)),
            Self::F64 => convert!(f64, |value: f64| value),
        }
    }
}
