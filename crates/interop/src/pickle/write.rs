//! Plain data as a pickle that any Python reads without importing anything.

use crate::Value;

/// The bytes of a pickle of protocol 2; `None` for arrays, tensors, sets, bytes and integers beyond 64 bits, which no file
/// of ours has.
pub fn write_pickle(value: &Value) -> Option<Vec<u8>> {
    let mut out = vec![0x80, 2];
    put(value, &mut out)?;
    out.push(b'.');
    Some(out)
}

fn put(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::None => out.push(b'N'),
        Value::Bool(b) => out.push(if *b { 0x88 } else { 0x89 }),
        Value::Int(i) => {
            let bytes = i64::try_from(*i).ok()?.to_le_bytes();
            if let Ok(small) = i32::try_from(*i) {
                out.push(b'J');
                out.extend(small.to_le_bytes());
            } else {
                out.extend([0x8a, bytes.len() as u8]);
                out.extend(bytes);
            }
        }
        Value::Float(f) => {
            out.push(b'G');
            out.extend(f.to_be_bytes());
        }
        Value::Str(text) => {
            out.push(b'X');
            out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::List(items) => {
            out.extend(b"](");
            items.iter().try_for_each(|item| put(item, out))?;
            out.push(b'e');
        }
        Value::Tuple(items) => {
            out.push(b'(');
            items.iter().try_for_each(|item| put(item, out))?;
            out.push(b't');
        }
        Value::Dict(entries) => {
            out.extend(b"}(");
            for (key, value) in entries {
                put(key, out)?;
                put(value, out)?;
            }
            out.push(b'u');
        }
        Value::BigInt(_)
        | Value::Bytes(_)
        | Value::Set(_)
        | Value::Array(_)
        | Value::Tensor(_)
        | Value::Foreign(_) => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_pickle;

    #[test]
    fn what_is_written_is_read_again() {
        let text = |s: &str| Value::Str(s.into());
        let value = Value::Dict(vec![
            (text("none"), Value::None),
            (text("flags"), Value::Tuple(vec![Value::Bool(true), Value::Bool(false)])),
            (
                Value::Int(3),
                Value::List(vec![Value::Int(-7), Value::Int(1 << 40), Value::Float(0.1), text("grün")]),
            ),
            (
                text("empty"),
                Value::Tuple(vec![Value::List(vec![]), Value::Dict(vec![]), Value::Tuple(vec![])]),
            ),
        ]);
        let bytes = write_pickle(&value).expect("plain data");
        assert_eq!(read_pickle(&mut bytes.as_slice()).expect("readable"), value);
        assert_eq!(write_pickle(&Value::Set(vec![])), None);
    }
}
