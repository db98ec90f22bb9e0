//! The Python names a pickle may mention, and the data each stands for.
//!
//! Nothing here calls anything: a "call" of one of these names is answered by building the plain data that the real
//! function would have returned. Any other name becomes a placeholder ([`Node::Foreign`]), which takes every call and
//! every state and stays what it is; a name that could only be there to run code ([`foreign`](super::foreign)) makes the
//! whole pickle unreadable, on purpose.

use std::sync::Arc;

use super::foreign;
use super::read::{Id, Machine, Node};
use crate::error::PickleError;
use crate::value::{ArrayType, NdArray, StorageRef, TensorRef, TensorType, Value};

/// A name that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    Dict,
    DefaultDict,
    List,
    Set,
    ByteArray,
    /// `int`, `float` …: only as the factory of a default dict.
    Scalar,
    Path,
    Encode,
    NumpyArray,
    NumpyDtype,
    NumpyScalar,
    NumpyReconstruct,
    NumpyFromBuffer,
    TorchSize,
    TorchDevice,
    RebuildTensor,
    /// `_rebuild_tensor_v3`: a tensor whose type stands in the call instead of its storage.
    RebuildTyped,
    RebuildParameter,
    /// A tensor with attributes, which are dropped, or of a class of its own.
    RebuildSubclass,
    Range,
    StorageType(TensorType),
    /// A storage of bytes, for [`Global::RebuildTyped`].
    UntypedStorage,
}

/// An element type under construction: the code, and whether the bytes are big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NumpyDtype {
    pub(super) code: String,
    big_endian: bool,
}

/// What a name stands for; `None` is a name to refuse, since it could only run code.
pub(super) fn lookup(module: &str, name: &str) -> Option<Node> {
    use Global as G;
    let global = match (module, name) {
        ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => G::Dict,
        ("collections", "defaultdict") => G::DefaultDict,
        ("builtins" | "__builtin__", "list") | ("collections", "deque") => G::List,
        ("builtins", "range") | ("__builtin__", "xrange") => G::Range,
        ("builtins" | "__builtin__", "set" | "frozenset") => G::Set,
        ("builtins" | "__builtin__", "bytearray" | "bytes") => G::ByteArray,
        ("builtins" | "__builtin__", "int" | "long" | "float" | "str" | "unicode" | "bool") => G::Scalar,
        (
            "pathlib" | "pathlib._local",
            "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath" | "Path",
        ) => G::Path,
        ("_codecs", "encode") => G::Encode,
        ("numpy", "ndarray") => G::NumpyArray,
        ("numpy", "dtype") => G::NumpyDtype,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => G::NumpyScalar,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => G::NumpyReconstruct,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => G::NumpyFromBuffer,
        ("torch", "Size") => G::TorchSize,
        ("torch", "device") => G::TorchDevice,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => G::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => G::RebuildTyped,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => G::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => G::RebuildSubclass,
        ("torch" | "torch.storage", "UntypedStorage") => G::UntypedStorage,
        ("torch", "DoubleStorage") => G::StorageType(TensorType::F64),
        ("torch", "FloatStorage") => G::StorageType(TensorType::F32),
        ("torch", "HalfStorage") => G::StorageType(TensorType::F16),
        ("torch", "BFloat16Storage") => G::StorageType(TensorType::BF16),
        ("torch", "LongStorage") => G::StorageType(TensorType::I64),
        ("torch", "IntStorage") => G::StorageType(TensorType::I32),
        ("torch", "ShortStorage") => G::StorageType(TensorType::I16),
        ("torch", "CharStorage") => G::StorageType(TensorType::I8),
        ("torch", "ByteStorage") => G::StorageType(TensorType::U8),
        ("torch", "BoolStorage") => G::StorageType(TensorType::Bool),
        ("torch", "ComplexDoubleStorage") => G::StorageType(TensorType::Opaque(16)),
        ("torch", "ComplexFloatStorage") => G::StorageType(TensorType::Opaque(8)),
        ("torch", "QInt32Storage") => G::StorageType(TensorType::Opaque(4)),
        ("torch", "QInt8Storage" | "QUInt8Storage") => G::StorageType(TensorType::Opaque(1)),
        (
            "torch",
            "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "int16" | "int8" | "uint8"
            | "bool" | "uint64" | "uint32" | "uint16",
        ) => return Some(Node::Leaf(Value::Str(format!("torch.{name}").into()))),
        _ => return (!foreign::runs_code(module, name)).then(|| foreign::named(&format!("{module}.{name}"))),
    };
    Some(Node::Global(global))
}

/// The data that a call of `global` would return.
pub(super) fn call(machine: &mut Machine<'_>, global: Global, args: &[Id]) -> Result<Node, PickleError> {
    match global {
        Global::Dict => match args {
            [] => Ok(Node::Dict(vec![])),
            [items] => pairs(machine, *items),
            _ => Err(machine.malformed("a dict of several arguments")),
        },
        Global::DefaultDict => match args {
            [] | [_] => Ok(Node::Dict(vec![])),
            [_, items, ..] => pairs(machine, *items),
        },
        // A deque has its greatest length as a second argument.
        Global::List => Ok(Node::List(sequence(machine, &args[..args.len().min(1)])?)),
        Global::Set => Ok(Node::Set(sequence(machine, args)?)),
        Global::TorchSize => Ok(Node::Tuple(sequence(machine, args)?)),
        Global::ByteArray => match args {
            [] => Ok(leaf(Value::Bytes([].into()))),
            [data, ..] => Ok(leaf(Value::Bytes(bytes(machine, *data)?.into()))),
        },
        Global::Encode => match args {
            [data, ..] => Ok(leaf(Value::Bytes(bytes(machine, *data)?.into()))),
            [] => Err(machine.malformed("_codecs.encode without text")),
        },
        Global::Path => {
            let parts = machine.values(args)?;
            let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
            let parts = parts.ok_or_else(|| machine.malformed("a path whose parts are no text"))?;
            machine.charge(parts.len(), parts.iter().map(|p| p.len()).sum())?;
            let path = parts.join("/");
            Ok(leaf(Value::Str(path.replacen("//", "/", 1).into())))
        }
        Global::TorchDevice => {
            let parts = machine.values(args)?;
            machine.charge(parts.len(), parts.iter().map(|p| p.as_str().map_or(0, str::len)).sum())?;
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            Ok(leaf(Value::Str(parts.join(":").into())))
        }
        Global::NumpyDtype => {
            let values = machine.values(&args[..args.len().min(1)])?;
            let code = values
                .first()
                .and_then(Value::as_str)
                .ok_or_else(|| machine.malformed("a dtype without code"))?;
            let big_endian = code.starts_with('>');
            let code = code.trim_start_matches(['<', '>', '|', '=']).to_owned();
            Ok(Node::Dtype(NumpyDtype { code, big_endian }))
        }
        Global::NumpyReconstruct => Ok(Node::EmptyArray),
        Global::NumpyScalar => {
            let [dtype, data, ..] = args else {
                return Err(machine.malformed("a numpy scalar without data"));
            };
            if let Some(other) = other_elements(machine, *dtype) {
                return Ok(other);
            }
            let array = array(machine, *dtype, *data, vec![], false)?;
            Ok(leaf(array.elements().next().unwrap_or(Value::None)))
        }
        Global::NumpyFromBuffer => {
            let [data, dtype, shape, rest @ ..] = args else {
                return Err(machine.malformed("a numpy buffer without dtype and shape"));
            };
            if let Some(other) = other_elements(machine, *dtype) {
                return Ok(other);
            }
            let shape = sizes(machine, *shape)?;
            let order = machine.values(&rest[..rest.len().min(1)])?;
            let fortran = order.first().and_then(Value::as_str) == Some("F");
            Ok(leaf(Value::Array(Arc::new(array(machine, *dtype, *data, shape, fortran)?))))
        }
        Global::Range => {
            let bounds: Option<Vec<i64>> = machine.values(args)?.iter().map(Value::as_i64).collect();
            let (start, end, step) = match bounds.as_deref() {
                Some(&[end]) => (0, end, 1),
                Some(&[start, end]) => (start, end, 1),
                Some(&[start, end, step]) if step != 0 => (start, end, step),
                _ => return Err(machine.malformed("a range without bounds")),
            };
            let (start, end, step) = (i128::from(start), i128::from(end), i128::from(step));
            let count = ((end - start + step - step.signum()) / step).max(0);
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            machine.charge(count, 0)?;
            Ok(leaf(Value::List((0..count as i128).map(|i| Value::Int(start + i * step)).collect())))
        }
        Global::RebuildTensor => {
            let [storage, offset, shape, stride, ..] = args else {
                return Err(machine.malformed("a tensor without storage, offset, size and stride"));
            };
            tensor(machine, None, [*storage, *offset, *shape, *stride])
        }
        Global::RebuildTyped => {
            let [storage, offset, shape, stride, _grad, _hooks, dtype, ..] = args else {
                return Err(machine.malformed("a tensor without storage, offset, size, stride and type"));
            };
            let name = match machine.node(*dtype) {
                Node::Leaf(Value::Str(name)) | Node::Foreign(name) => name.clone(),
                _ => return Err(machine.malformed("a tensor whose type is none")),
            };
            match tensor_type(&name) {
                Some(dtype) => tensor(machine, Some(dtype), [*storage, *offset, *shape, *stride]),
                None => Ok(foreign::named(&format!("torch.Tensor of {name}"))),
            }
        }
        Global::RebuildSubclass => {
            let [function, _class, inner, ..] = args else {
                return Err(machine.malformed("a tensor without function and arguments"));
            };
            match (machine.node(*function).clone(), machine.node(*inner).clone()) {
                // Only what this function itself stands for: a call in a call in a call … ends here.
                (
                    Node::Global(global @ (Global::RebuildTensor | Global::RebuildTyped)),
                    Node::Tuple(args),
                ) => {
                    machine.charge(args.len(), 0)?;
                    call(machine, global, &args)
                }
                (Node::Global(_) | Node::Foreign(_), _) => {
                    Ok(foreign::named("torch.Tensor of a class of its own"))
                }
                _ => Err(machine.malformed("a tensor made by something that is not a function")),
            }
        }
        Global::RebuildParameter => match args {
            [data, ..] => Ok(machine.node(*data).clone()),
            [] => Err(machine.malformed("a parameter without data")),
        },
        Global::Scalar | Global::NumpyArray | Global::StorageType(_) | Global::UntypedStorage => {
            Err(machine.malformed(format!("a call of {global:?}, which only names a type")))
        }
    }
}

/// What `BUILD` does to an object: numpy's state, or attributes, which are dropped.
pub(super) fn set_state(machine: &mut Machine<'_>, object: Id, state: Id) -> Result<(), PickleError> {
    match machine.node(object).clone() {
        Node::Dtype(mut dtype) => {
            let state = machine.values(&[state])?;
            let fields = state[0].as_list().unwrap_or_default();
            dtype.big_endian = fields.get(1).and_then(Value::as_str) == Some(">");
            if fields.iter().skip(2).take(3).any(|v| *v != Value::None) {
                // A record or an array of arrays: no number, whatever its code.
                "V".clone_into(&mut dtype.code);
            }
            machine.replace(object, Node::Dtype(dtype));
        }
        Node::EmptyArray => {
            let Node::Tuple(state) = machine.node(state).clone() else {
                return Err(machine.malformed("a numpy array whose state is not a tuple"));
            };
            let [_version, shape, dtype, fortran, data] = state[..] else {
                return Err(machine.malformed("a numpy array whose state has not five parts"));
            };
            let shape = sizes(machine, shape)?;
            let fortran = machine.values(&[fortran])?[0].clone();
            let fortran = matches!(fortran, Value::Bool(true) | Value::Int(1));
            if let (Node::Dtype(d), Node::List(items)) = (machine.node(dtype), machine.node(data))
                && d.code.starts_with('O')
            {
                // An array of Python objects: its items, without the shape.
                let items = items.clone();
                machine.replace(object, Node::List(items));
                return Ok(());
            }
            if let Some(other) = other_elements(machine, dtype) {
                machine.replace(object, other);
                return Ok(());
            }
            let array = array(machine, dtype, data, shape, fortran)?;
            machine.replace(object, leaf(Value::Array(Arc::new(array))));
        }
        // state_dict() is an ordered dict with an attribute `_metadata`; a placeholder takes anything.
        Node::Dict(_) | Node::List(_) | Node::Set(_) | Node::Foreign(_) => {}
        _ => return Err(machine.malformed("a state for something that has none")),
    }
    Ok(())
}

/// The storage that a persistent id names: `("storage", type, key, location, elements[, view])`.
pub(super) fn storage(machine: &mut Machine<'_>, id: Id) -> Result<StorageRef, PickleError> {
    let Node::Tuple(parts) = machine.node(id).clone() else {
        return Err(machine.malformed("a persistent id that is not a tuple"));
    };
    let [tag, kind, key, _location, len, rest @ ..] = &parts[..] else {
        return Err(machine.malformed("a persistent id of too few parts"));
    };
    let dtype = match *machine.node(*kind) {
        Node::Global(Global::StorageType(dtype)) => dtype,
        Node::Global(Global::UntypedStorage) => TensorType::U8,
        _ => return Err(machine.malformed("a storage of unknown type")),
    };
    let values = machine.values(&[*tag, *key, *len])?;
    if values[0].as_str() != Some("storage") {
        return Err(machine.malformed("a persistent id that is not a storage"));
    }
    if machine.values(rest)?.iter().any(|v| *v != Value::None) {
        return Err(machine.malformed("a storage that is a view of another one"));
    }
    match (&values[1], values[2].as_usize()) {
        (Value::Str(key), Some(len)) => Ok(StorageRef { key: key.clone(), dtype, len }),
        _ => Err(machine.malformed("a storage without key and length")),
    }
}

/// A tensor of `[storage, offset, shape, stride]`; of `dtype` where the storage is one of bytes.
fn tensor(
    machine: &mut Machine<'_>,
    dtype: Option<TensorType>,
    [storage, offset, shape, stride]: [Id; 4],
) -> Result<Node, PickleError> {
    let Node::Storage(mut storage) = machine.node(storage).clone() else {
        return Err(machine.malformed("a tensor whose storage is none"));
    };
    if let Some(dtype) = dtype {
        if storage.dtype != TensorType::U8 || storage.len % dtype.size() != 0 {
            return Err(machine.malformed("a tensor whose type does not fit its storage"));
        }
        storage = StorageRef { dtype, len: storage.len / dtype.size(), ..storage };
    }
    let offset = machine.values(&[offset])?[0].as_usize();
    let offset = offset.ok_or_else(|| machine.malformed("a tensor's offset that is not a size"))?;
    let (shape, stride) = (sizes(machine, shape)?, sizes(machine, stride)?);
    let tensor = TensorRef { storage, offset, shape, stride };
    if tensor.span().is_none() {
        return Err(machine.malformed(format!(
            "a tensor of shape {:?} and stride {:?} from element {} on leaves its storage of {} elements",
            tensor.shape, tensor.stride, tensor.offset, tensor.storage.len
        )));
    }
    if let TensorType::Opaque(_) = tensor.storage.dtype {
        return Ok(foreign::named("torch.Tensor of complex or quantised numbers"));
    }
    // One value seen many times: a small file could ask for any amount of memory.
    if tensor.count().is_none_or(|n| n > tensor.storage.len) {
        return Ok(foreign::named("torch.Tensor that repeats its values"));
    }
    Ok(leaf(Value::Tensor(Arc::new(tensor))))
}

/// The element type that PyTorch calls by this name.
fn tensor_type(name: &str) -> Option<TensorType> {
    Some(match name.strip_prefix("torch.")? {
        "float64" => TensorType::F64,
        "float32" => TensorType::F32,
        "float16" => TensorType::F16,
        "bfloat16" => TensorType::BF16,
        "int64" => TensorType::I64,
        "int32" => TensorType::I32,
        "int16" => TensorType::I16,
        "int8" => TensorType::I8,
        "uint64" => TensorType::U64,
        "uint32" => TensorType::U32,
        "uint16" => TensorType::U16,
        "uint8" => TensorType::U8,
        "bool" => TensorType::Bool,
        _ => return None,
    })
}

/// A placeholder for numpy values of a type that is neither number nor text here (complex, dates, records).
fn other_elements(machine: &Machine<'_>, dtype: Id) -> Option<Node> {
    let Node::Dtype(NumpyDtype { code, .. }) = machine.node(dtype) else { return None };
    array_type(code).is_none().then(|| foreign::named(&format!("numpy.ndarray of type {code}")))
}

/// The element type of a code such as `f8`.
fn array_type(code: &str) -> Option<ArrayType> {
    let (letter, size) = code.split_at_checked(1).unwrap_or_default();
    Some(match (letter, size.parse::<usize>()) {
        ("b" | "?", _) => ArrayType::Bool,
        ("i", Ok(n @ (1 | 2 | 4 | 8))) => ArrayType::Int(n),
        ("u", Ok(n @ (1 | 2 | 4 | 8))) => ArrayType::UInt(n),
        ("f", Ok(n @ (2 | 4 | 8))) => ArrayType::Float(n),
        ("U", Ok(n)) if n <= 1 << 20 => ArrayType::Unicode(n),
        ("S", Ok(n)) if n <= 1 << 20 => ArrayType::Bytes(n),
        _ => return None,
    })
}

fn leaf(value: Value) -> Node {
    Node::Leaf(value)
}

/// The items of the one argument of `list(…)` and its like.
fn sequence(machine: &mut Machine<'_>, args: &[Id]) -> Result<Vec<Id>, PickleError> {
    let [items] = args else {
        return if args.is_empty() {
            Ok(vec![])
        } else {
            Err(machine.malformed("a collection of several arguments"))
        };
    };
    let (Node::List(items) | Node::Tuple(items) | Node::Set(items)) = machine.node(*items) else {
        return Err(machine.malformed("a collection of something that is none"));
    };
    let items = items.clone();
    machine.charge(items.len(), 0)?;
    Ok(items)
}

/// The entries of the argument of `dict(…)`: a dict, or a list of pairs.
fn pairs(machine: &mut Machine<'_>, items: Id) -> Result<Node, PickleError> {
    if let Node::Dict(entries) = machine.node(items) {
        let entries = entries.clone();
        machine.charge(entries.len(), 0)?;
        return Ok(Node::Dict(entries));
    }
    let mut entries = vec![];
    for item in sequence(machine, &[items])? {
        match machine.node(item) {
            Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => entries.push((pair[0], pair[1])),
            _ => return Err(machine.malformed("a dict entry that is not a pair")),
        }
    }
    Ok(Node::Dict(entries))
}

/// Bytes, or the bytes that latin-1 text stands for.
fn bytes(machine: &mut Machine<'_>, id: Id) -> Result<Vec<u8>, PickleError> {
    match machine.node(id).clone() {
        Node::Leaf(Value::Bytes(bytes)) => {
            machine.charge(1, bytes.len())?;
            Ok(bytes.to_vec())
        }
        Node::Leaf(Value::Str(text)) => {
            machine.charge(1, text.len())?;
            let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            bytes.ok_or_else(|| machine.malformed("text that does not stand for bytes"))
        }
        _ => Err(machine.malformed("something else where bytes belong")),
    }
}

/// A tuple of sizes.
fn sizes(machine: &mut Machine<'_>, id: Id) -> Result<Vec<usize>, PickleError> {
    let values = machine.values(&[id])?;
    let sizes: Option<Vec<usize>> = values[0].as_list().and_then(|l| l.iter().map(Value::as_usize).collect());
    sizes.ok_or_else(|| machine.malformed("a shape that is not a tuple of sizes"))
}

/// An array of the element type at `dtype` from the bytes at `data`.
fn array(
    machine: &mut Machine<'_>,
    dtype: Id,
    data: Id,
    shape: Vec<usize>,
    fortran: bool,
) -> Result<NdArray, PickleError> {
    let Node::Dtype(NumpyDtype { code, big_endian }) = machine.node(dtype).clone() else {
        return Err(machine.malformed("a numpy value whose dtype is none"));
    };
    let Some(dtype) = array_type(&code) else {
        return Err(machine.malformed(format!("numpy values of type `{code}`, which are not supported")));
    };
    let mut data = bytes(machine, data)?;
    let expected = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    if expected != Some(data.len()) {
        return Err(machine.malformed(format!("a numpy array of shape {shape:?} with {} bytes", data.len())));
    }
    if big_endian {
        let width = if let ArrayType::Unicode(_) = dtype { 4 } else { dtype.size() };
        if !matches!(dtype, ArrayType::Bytes(_)) && width > 1 {
            data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
    }
    if fortran && shape.len() > 1 {
        data = to_c_order(&data, &shape, dtype.size());
    }
    Ok(NdArray { dtype, shape, data })
}

/// Column-major elements in row-major order.
fn to_c_order(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    while out.len() < data.len() {
        let from = index.iter().zip(shape).rev().fold(0, |n, (&i, &d)| n * d + i) * size;
        out.extend_from_slice(&data[from..from + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}
