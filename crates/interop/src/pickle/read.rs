//! A pickle reader that builds plain data and executes nothing.
//!
//! A pickle is a program for a stack machine whose instructions can name any Python function and call it. This
//! reader knows a short list of names ([`globals`](super::globals)), each of which it turns into data by itself; an
//! object of any other class becomes a placeholder that holds its class's name, and names that only run code are refused
//! when they are read, before anything could be made of them. Objects live in an arena while
//! the program runs, because a pickle may fill a list after storing it; the tree of [`Value`]s is made at the end,
//! within limits, so that self-containing lists and small files of many repeated references give an error.
//!
//! Protocols 2 to 5 are read; of the older text protocols only what newer ones also use.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind, Read};
use std::sync::Arc;

use super::globals::{self, Global, NumpyDtype};
use crate::error::PickleError;
use crate::value::{StorageRef, TensorRef, Value};

/// Levels of nesting.
const MAX_DEPTH: usize = 200;
/// Objects while reading, and again in the tree that results.
const MAX_OBJECTS: usize = 8 << 20;
/// Bytes of one pickle.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a module or function name.
const MAX_NAME: u64 = 512;

/// Reads one pickle from the start of `reader` and leaves `reader` behind its last byte.
///
/// # Errors
/// [`PickleError`]; nothing in the pickle is executed, whatever it holds.
pub fn read_pickle(reader: &mut dyn BufRead) -> Result<Value, PickleError> {
    read_with_storages(reader).map(|(value, _)| value)
}

/// As [`read_pickle`], with every storage that the pickle names.
pub(crate) fn read_with_storages(reader: &mut dyn BufRead) -> Result<(Value, Vec<StorageRef>), PickleError> {
    let mut machine = Machine {
        input: Input { reader, offset: 0 },
        nodes: vec![],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        storages: vec![],
        work: 4 * MAX_OBJECTS,
        copies: 2 * MAX_BYTES,
    };
    let value = machine.run()?;
    Ok((value, machine.storages))
}

/// Position of an object in the arena.
pub(super) type Id = u32;

/// An object while the program runs.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Leaf(Value),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Dtype(NumpyDtype),
    /// `numpy.ndarray` before its state arrives.
    EmptyArray,
    Storage(StorageRef),
    /// A class of another program, or an object of it: its name.
    Foreign(Arc<str>),
}

struct Input<'a> {
    reader: &'a mut dyn BufRead,
    offset: u64,
}

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|e| self.failed(e))?;
        self.offset += N as u64;
        if self.offset > MAX_BYTES {
            return Err(PickleError::Limit { what: "bytes", limit: MAX_BYTES });
        }
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    /// `len` bytes; memory grows with what is really there, not with what is announced.
    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, PickleError> {
        if self.offset.saturating_add(len) > MAX_BYTES {
            return Err(PickleError::Limit { what: "bytes", limit: MAX_BYTES });
        }
        let mut bytes = vec![];
        let read = (&mut *self.reader).take(len).read_to_end(&mut bytes)?;
        self.offset += read as u64;
        if (read as u64) < len { Err(PickleError::Truncated { offset: self.offset }) } else { Ok(bytes) }
    }

    fn text(&mut self, len: u64) -> Result<Value, PickleError> {
        let bytes = self.bytes(len)?;
        // Python writes lone surrogates, which are no UTF-8, only for undecodable file names.
        Ok(Value::Str(String::from_utf8_lossy(&bytes).into()))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let mut bytes = vec![];
        (&mut *self.reader).take(MAX_NAME).read_until(b'\n', &mut bytes)?;
        self.offset += bytes.len() as u64;
        if bytes.pop() != Some(b'\n') {
            return Err(PickleError::Malformed { offset: self.offset, what: "a name without an end".into() });
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn failed(&self, error: std::io::Error) -> PickleError {
        if error.kind() == ErrorKind::UnexpectedEof {
            PickleError::Truncated { offset: self.offset }
        } else {
            PickleError::Io(error)
        }
    }
}

pub(super) struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Every storage that was named, in this order.
    storages: Vec<StorageRef>,
    /// Objects that calls may still visit or copy; keeps repeated use of one large object affordable.
    work: usize,
    /// Bytes that calls may still copy.
    copies: u64,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, PickleError> {
        loop {
            let opcode = self.input.byte()?;
            match opcode {
                b'.' => break,
                0x80 => {
                    let protocol = self.input.byte()?;
                    if protocol > 5 {
                        return Err(self.malformed(format!("protocol {protocol}, known are 2 to 5")));
                    }
                }
                0x95 => _ = self.input.array::<8>()?,
                _ => self.step(opcode)?,
            }
        }
        let top = self.pop()?;
        let mut budget = MAX_OBJECTS;
        self.tree(top, 0, &mut budget)
    }

    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            b'(' => {
                if self.marks.len() >= MAX_OBJECTS {
                    return Err(PickleError::Limit { what: "objects", limit: MAX_OBJECTS as u64 });
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.pop()?;
                self.stack.push(top);
                self.push_id(top)
            }
            b'N' => self.leaf(Value::None),
            0x88 => self.leaf(Value::Bool(true)),
            0x89 => self.leaf(Value::Bool(false)),
            b'J' => {
                let i = i32::from_le_bytes(self.input.array()?);
                self.leaf(Value::Int(i.into()))
            }
            b'K' => {
                let i = self.input.byte()?;
                self.leaf(Value::Int(i.into()))
            }
            b'M' => {
                let i = u16::from_le_bytes(self.input.array()?);
                self.leaf(Value::Int(i.into()))
            }
            0x8a => {
                let len = self.input.byte()?;
                self.long(len.into())
            }
            0x8b => {
                let len = self.length32()?;
                self.long(len)
            }
            b'G' => {
                let f = f64::from_be_bytes(self.input.array()?);
                self.leaf(Value::Float(f))
            }
            b'X' | 0x8c | 0x8d => {
                let len = self.length(opcode, [b'X', 0x8c, 0x8d])?;
                let text = self.input.text(len)?;
                self.leaf(text)
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let len =
                    if opcode == 0x96 { self.length64()? } else { self.length(opcode, [b'B', b'C', 0x8e])? };
                let bytes = self.input.bytes(len)?;
                self.leaf(Value::Bytes(bytes.into()))
            }
            b'T' | b'U' => {
                // Python 2's str: text or bytes; latin-1 keeps every byte, so both can be had from it.
                let len = if opcode == b'T' { self.length32()? } else { self.input.byte()?.into() };
                let text: String = self.input.bytes(len)?.into_iter().map(char::from).collect();
                self.leaf(Value::Str(text.into()))
            }
            b']' => self.push(Node::List(vec![])),
            b'}' => self.push(Node::Dict(vec![])),
            b')' => self.push(Node::Tuple(vec![])),
            0x8f => self.push(Node::Set(vec![])),
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Set(items))
            }
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push(Node::Dict(pairs))
            }
            0x85..=0x87 => {
                let mut items = vec![];
                for _ in 0x84..opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![(key, value)])
            }
            b'u' => {
                let pairs = self.pop_pairs()?;
                self.insert(pairs)
            }
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => self.input.byte()?.into(),
                    b'r' => u32::from_le_bytes(self.input.array()?),
                    _ => self.memo.len() as u32,
                };
                let top = self.top()?;
                self.memo.insert(key, top);
                Ok(())
            }
            b'h' | b'j' => {
                let key = if opcode == b'h' {
                    self.input.byte()?.into()
                } else {
                    u32::from_le_bytes(self.input.array()?)
                };
                let Some(&id) = self.memo.get(&key) else {
                    return Err(self.malformed(format!("object {key} is used before it is stored")));
                };
                self.push_id(id)
            }
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(&module, &name)
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (Node::Leaf(Value::Str(module)), Node::Leaf(Value::Str(name))) =
                    (self.node(module).clone(), self.node(name).clone())
                else {
                    return Err(self.malformed("a name that is not text"));
                };
                self.global(&module, &name)
            }
            b'R' | 0x81 => {
                let args = self.pop()?;
                self.call(args)
            }
            0x92 => {
                let _named = self.pop()?;
                let args = self.pop()?;
                self.call(args)
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                globals::set_state(self, object, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = globals::storage(self, id)?;
                self.storages.push(storage.clone());
                self.push(Node::Storage(storage))
            }
            other => Err(self.malformed(format!("instruction 0x{other:02x} is not supported"))),
        }
    }

    /// What the call of the name on the stack would return.
    fn call(&mut self, args: Id) -> Result<(), PickleError> {
        let callee = self.pop()?;
        let Node::Tuple(args) = self.node(args) else {
            return Err(self.malformed("arguments that are no tuple"));
        };
        let result = match self.node(callee) {
            Node::Foreign(name) => Node::Foreign(name.clone()),
            &Node::Global(global) => {
                let args = args.clone();
                self.charge(args.len(), 0)?;
                globals::call(self, global, &args)?
            }
            _ => return Err(self.malformed("a call of something that is not a function")),
        };
        self.push(result)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let node = globals::lookup(module, name)
            .ok_or_else(|| PickleError::Refused { name: printable(&format!("{module}.{name}")) })?;
        self.push(node)
    }

    /// An integer in two's complement.
    fn long(&mut self, len: u64) -> Result<(), PickleError> {
        let bytes = self.input.bytes(len)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        if bytes.len() > 16 {
            return self.leaf(Value::BigInt(bytes.into()));
        }
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.leaf(Value::Int(i128::from_le_bytes(wide)))
    }

    /// A length in the width that the opcode has: 4 bytes, 1 byte, 8 bytes.
    fn length(&mut self, opcode: u8, [_, short, wide]: [u8; 3]) -> Result<u64, PickleError> {
        if opcode == short {
            Ok(self.input.byte()?.into())
        } else if opcode == wide {
            self.length64()
        } else {
            self.length32()
        }
    }

    fn length32(&mut self) -> Result<u64, PickleError> {
        Ok(u32::from_le_bytes(self.input.array()?).into())
    }

    fn length64(&mut self) -> Result<u64, PickleError> {
        Ok(u64::from_le_bytes(self.input.array()?))
    }

    fn extend(&mut self, new: Vec<Id>) -> Result<(), PickleError> {
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::List(items) | Node::Set(items) => items.extend(new),
            Node::Foreign(_) => {}
            _ => return Err(self.malformed("items for something that is not a list")),
        }
        Ok(())
    }

    fn insert(&mut self, new: Vec<(Id, Id)>) -> Result<(), PickleError> {
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::Dict(pairs) => pairs.extend(new),
            Node::Foreign(_) => {}
            _ => return Err(self.malformed("entries for something that is not a dict")),
        }
        Ok(())
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn replace(&mut self, id: Id, node: Node) {
        self.nodes[id as usize] = node;
    }

    pub(super) fn malformed(&self, what: impl Into<String>) -> PickleError {
        PickleError::Malformed { offset: self.input.offset, what: what.into() }
    }

    fn leaf(&mut self, value: Value) -> Result<(), PickleError> {
        self.push(Node::Leaf(value))
    }

    fn push(&mut self, node: Node) -> Result<(), PickleError> {
        if self.nodes.len() >= MAX_OBJECTS {
            return Err(PickleError::Limit { what: "objects", limit: MAX_OBJECTS as u64 });
        }
        self.nodes.push(node);
        self.push_id(self.nodes.len() as Id - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), PickleError> {
        if self.stack.len() >= MAX_OBJECTS {
            return Err(PickleError::Limit { what: "objects", limit: MAX_OBJECTS as u64 });
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        if self.marks.last().is_some_and(|&m| m >= self.stack.len()) {
            return Err(self.malformed("an empty stack"));
        }
        self.stack.pop().ok_or_else(|| self.malformed("an empty stack"))
    }

    fn top(&self) -> Result<Id, PickleError> {
        self.stack.last().copied().ok_or_else(|| self.malformed("an empty stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("an end without a mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Id, Id)>, PickleError> {
        let items = self.pop_mark()?;
        if items.len() % 2 != 0 {
            return Err(self.malformed("a key without a value"));
        }
        Ok(items.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    /// The finished value of an object.
    fn tree(&self, id: Id, depth: usize, budget: &mut usize) -> Result<Value, PickleError> {
        if depth > MAX_DEPTH {
            return Err(PickleError::Limit { what: "levels of nesting", limit: MAX_DEPTH as u64 });
        }
        *budget =
            budget.checked_sub(1).ok_or(PickleError::Limit { what: "objects", limit: MAX_OBJECTS as u64 })?;
        let mut all =
            |ids: &[Id]| ids.iter().map(|&i| self.tree(i, depth + 1, budget)).collect::<Result<_, _>>();
        Ok(match self.node(id) {
            Node::Leaf(value) => value.clone(),
            Node::List(items) => Value::List(all(items)?),
            Node::Tuple(items) => Value::Tuple(all(items)?),
            Node::Set(items) => Value::Set(all(items)?),
            Node::Dict(pairs) => {
                let mut entries = vec![];
                for &(key, value) in pairs {
                    entries.push((self.tree(key, depth + 1, budget)?, self.tree(value, depth + 1, budget)?));
                }
                Value::Dict(entries)
            }
            Node::Global(global) => Value::Str(format!("class {global:?}").into()),
            Node::Dtype(dtype) => Value::Str(dtype.code.as_str().into()),
            Node::EmptyArray => return Err(self.malformed("a numpy array without its data")),
            Node::Foreign(name) => Value::Foreign(name.clone()),
            Node::Storage(storage) => Value::Tensor(Arc::new(TensorRef {
                storage: storage.clone(),
                offset: 0,
                shape: vec![storage.len],
                stride: vec![1],
            })),
        })
    }

    /// Counts what a call is about to copy.
    pub(super) fn charge(&mut self, objects: usize, bytes: usize) -> Result<(), PickleError> {
        let over = |what, limit| PickleError::Limit { what, limit };
        self.work = self.work.checked_sub(objects).ok_or(over("objects", MAX_OBJECTS as u64))?;
        self.copies = self.copies.checked_sub(bytes as u64).ok_or(over("bytes", MAX_BYTES))?;
        Ok(())
    }

    /// The finished values of arguments.
    pub(super) fn values(&mut self, ids: &[Id]) -> Result<Vec<Value>, PickleError> {
        let mut work = self.work;
        let values = ids.iter().map(|&id| self.tree(id, 0, &mut work)).collect();
        self.work = work;
        values
    }
}

/// A name fit for a message.
fn printable(name: &str) -> String {
    name.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
