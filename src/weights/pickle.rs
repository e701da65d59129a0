//! Just enough of pickle to find the tensors in what `torch.save` writes.
//!
//! Nothing is executed: a class or function is only a name, and calling one only records the call.
//! Values live in one list and refer to each other by position, and texts stay where they are, so
//! every opcode costs the same however often a pickle repeats itself: time and memory are bounded
//! by the length of the input, and memory by [`MAX_VALUES`] besides.
//!
//! Opcodes as in <https://github.com/python/cpython/blob/v3.12.0/Lib/pickletools.py>: protocol 2,
//! which `torch.save` uses by default, and what protocols 3 and 4 add.

use std::collections::HashMap;

/// The position of a value.
pub(super) type Id = u32;

/// Values, references on the stack and remembered references that a pickle may have, each: some
/// hundred times those of the largest checkpoint, and a few hundred MB.
const MAX_VALUES: usize = 1 << 22;

/// A value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// Module and name, not looked up.
    Global(&'a str, &'a str),
    /// A call of a global that was not made.
    Call {
        callable: Id,
        args: Id,
    },
    /// A reference to something outside the pickle: for torch, a storage.
    Persistent(Id),
    /// Whatever does not matter for finding tensors.
    Opaque,
}

/// A pickle read to its end.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine {
            rest: bytes,
            ..Machine::default()
        };
        machine.run().map_err(|problem| {
            let at = bytes.len() - machine.rest.len();
            format!("{problem} at byte {at} of the pickle")
        })
    }

    /// The value at the top.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// Every value that was made, whatever became of it.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        0..self.values.len() as Id // at most `MAX_VALUES`
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// Module and name.
    pub(super) fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.get(id) {
            Value::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// The module and the name of the function, and its arguments.
    pub(super) fn call(&self, id: Id) -> Option<((&'a str, &'a str), &[Id])> {
        match self.get(id) {
            Value::Call { callable, args } => Some((self.global(*callable)?, self.tuple(*args)?)),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Pickle<'a>, String> {
        loop {
            let [op] = self.array()?;
            self.check_size()?;
            match op {
                // PROTO, FRAME
                0x80 => drop(self.array::<1>()?),
                0x95 => drop(self.array::<8>()?),
                // STOP
                b'.' => {
                    let root = self.pop()?;
                    let values = std::mem::take(&mut self.values);
                    return Ok(Pickle { values, root });
                }

                // NONE, NEWTRUE, NEWFALSE, BINFLOAT
                b'N' | 0x88 | 0x89 => self.push(Value::Opaque),
                b'G' => {
                    self.array::<8>()?;
                    self.push(Value::Opaque);
                }
                // BININT, BININT1, BININT2
                b'J' => {
                    let int = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(int.into()));
                }
                b'K' => {
                    let [int] = self.array()?;
                    self.push(Value::Int(int.into()));
                }
                b'M' => {
                    let int = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(int.into()));
                }
                // LONG1, LONG4
                0x8a => {
                    let [len] = self.array()?;
                    self.long(len.into())?;
                }
                0x8b => {
                    let len = self.len4()?;
                    self.long(len)?;
                }
                // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
                0x8c => {
                    let [len] = self.array()?;
                    self.text(len.into())?;
                }
                b'X' => {
                    let len = self.len4()?;
                    self.text(len)?;
                }
                0x8d => {
                    let len = self.len8()?;
                    self.text(len)?;
                }
                // SHORT_BINSTRING, SHORT_BINBYTES, BINSTRING, BINBYTES, BINBYTES8, BYTEARRAY8
                b'U' | b'C' => {
                    let [len] = self.array()?;
                    self.skip(len.into())?;
                }
                b'T' | b'B' => {
                    let len = self.len4()?;
                    self.skip(len)?;
                }
                0x8e | 0x96 => {
                    let len = self.len8()?;
                    self.skip(len)?;
                }

                // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
                b')' => self.push(Value::Tuple(vec![])),
                0x85..=0x87 => {
                    let items = self.pop_last(usize::from(op - 0x84))?;
                    self.push(Value::Tuple(items));
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                // EMPTY_LIST, LIST, APPEND, APPENDS
                b']' => self.push(Value::List(vec![])),
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::List(items));
                }
                b'a' => {
                    let items = self.pop_last(1)?;
                    self.extend(items)?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                // EMPTY_DICT, DICT, SETITEM, SETITEMS
                b'}' => self.push(Value::Dict(vec![])),
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Dict(vec![]));
                    self.extend(items)?;
                }
                b's' => {
                    let items = self.pop_last(2)?;
                    self.extend(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.extend(items)?;
                }
                // EMPTY_SET, ADDITEMS, FROZENSET
                0x8f => self.push(Value::Opaque),
                0x90 => drop(self.pop_to_mark()?),
                0x91 => {
                    self.pop_to_mark()?;
                    self.push(Value::Opaque);
                }

                // MARK, POP, POP_MARK, DUP
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
                b'q' => {
                    let [key] = self.array()?;
                    let top = self.top()?;
                    self.memo.insert(key.into(), top);
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    let top = self.top()?;
                    self.memo.insert(key, top);
                }
                0x94 => {
                    let key = u32::try_from(self.memo.len()).map_err(|e| e.to_string())?;
                    let top = self.top()?;
                    self.memo.insert(key, top);
                }
                b'h' => {
                    let [key] = self.array()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }

                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.push(Value::Global(module, name));
                }
                0x93 => {
                    let parts = self.pop_last(2)?;
                    let global = match (self.value(parts[0]), self.value(parts[1])) {
                        (Value::Text(module), Value::Text(name)) => Value::Global(module, name),
                        _ => return Err("a global without a name".into()),
                    };
                    self.push(global);
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let parts = self.pop_last(2)?;
                    self.call(parts[0], parts[1]);
                }
                // NEWOBJ_EX
                0x92 => {
                    let parts = self.pop_last(3)?;
                    self.call(parts[0], parts[1]);
                }
                // BUILD: attributes of an object, such as `_metadata` of a state dict
                b'b' => drop(self.pop()?),
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Value::Persistent(id));
                }
                other => return Err(format!("unknown opcode {other:#04x}")),
            }
        }
    }

    /// Holds before every opcode, each of which adds one entry to each at most.
    fn check_size(&self) -> Result<(), String> {
        let largest = [
            self.values.len(),
            self.stack.len(),
            self.marks.len(),
            self.memo.len(),
        ];
        match largest.iter().all(|len| *len < MAX_VALUES) {
            true => Ok(()),
            false => Err(format!(
                "more than {MAX_VALUES} values, more than any model,"
            )),
        }
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len() as Id); // less than `MAX_VALUES`
        self.values.push(value);
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The lowest stack position that belongs to the innermost mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.stack.len() <= self.floor() {
            return Err("nothing left on the stack".into());
        }
        self.stack.pop().ok_or_else(|| "empty stack".into())
    }

    fn top(&self) -> Result<Id, String> {
        match self.stack.last() {
            Some(top) if self.stack.len() > self.floor() => Ok(*top),
            _ => Err("nothing left on the stack".into()),
        }
    }

    /// The last `n` values, in the order they were pushed.
    fn pop_last(&mut self, n: usize) -> Result<Vec<Id>, String> {
        match self.stack.len().checked_sub(n) {
            Some(at) if at >= self.floor() => Ok(self.stack.split_off(at)),
            _ => Err("too few values on the stack".into()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    /// Adds items to the list or dict on top. Other objects may be list- or dict-like; what they
    /// hold is of no interest.
    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::List(list) => list.extend(items),
            Value::Dict(dict) => dict.extend(items.chunks_exact(2).map(|kv| (kv[0], kv[1]))),
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, callable: Id, args: Id) {
        let value = match self.value(callable) {
            Value::Global("collections", "OrderedDict" | "defaultdict") => Value::Dict(vec![]),
            _ => Value::Call { callable, args },
        };
        self.push(value);
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = self.memo.get(&key).ok_or("an unknown memo key")?;
        self.stack.push(*id);
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or("unexpected end")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or("unexpected end")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn len4(&mut self) -> Result<usize, String> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|e| e.to_string())
    }

    fn len8(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|e| e.to_string())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&b| b == b'\n');
        let line = self.take(end.ok_or("a name without an end")?)?;
        self.array::<1>()?;
        let line = std::str::from_utf8(line).map_err(|e| format!("a name: {e}"))?;
        Ok(line.trim_end())
    }

    /// A little-endian signed integer of any length.
    fn long(&mut self, len: usize) -> Result<(), String> {
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|&b| b >= 0x80);
        let mut le = if negative { [0xff; 8] } else { [0; 8] };
        let value = match le.get_mut(..len) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(le))
            }
            None => Value::Opaque,
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        // Python also writes halves of surrogate pairs, which no name of a tensor has.
        let text = std::str::from_utf8(self.take(len)?);
        self.push(text.map_or(Value::Opaque, Value::Text));
        Ok(())
    }

    fn skip(&mut self, len: usize) -> Result<(), String> {
        self.take(len)?;
        self.push(Value::Opaque);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_integers_are_read() {
        // pickle.dumps({"a": (1, 300, -2, 1 << 33), "b": [None, 1.5]}, protocol=2)
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01(K\x01M,\x01J\xfe\xff\xff\xff\x8a\x05\
            \x00\x00\x00\x00\x02tq\x02X\x01\x00\x00\x00bq\x03]q\x04(NG?\xf8\x00\x00\x00\x00\x00\
            \x00eu.";
        let pickle = Pickle::read(bytes).unwrap();
        let dict = pickle.dict(pickle.root()).unwrap();
        assert_eq!(pickle.text(dict[0].0), Some("a"));
        let tuple = pickle.tuple(dict[0].1).unwrap();
        let ints: Vec<_> = tuple.iter().map(|&id| pickle.int(id).unwrap()).collect();
        assert_eq!(ints, [1, 300, -2, 1 << 33]);
        assert!(matches!(pickle.get(dict[1].1), Value::List(list) if list.len() == 2));
    }

    #[test]
    fn a_memo_refers_to_the_value_and_not_to_its_state_at_the_time() {
        // d = {}; [d, d] with d filled after it was remembered
        let bytes = b"\x80\x02]q\x00(}q\x01X\x01\x00\x00\x00kK\x07sh\x01e.";
        let pickle = Pickle::read(bytes).unwrap();
        let Value::List(list) = pickle.get(pickle.root()) else {
            panic!("not a list")
        };
        assert_eq!(list[0], list[1]);
        assert_eq!(pickle.dict(list[1]).unwrap().len(), 1);
    }

    #[test]
    fn doubling_references_does_not_double_the_work() {
        // x = (); then 60 times x = (x, x)
        let mut bytes = b"\x80\x02)".to_vec();
        bytes.extend(b"2\x86".repeat(60));
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().values.len(), 61);
    }

    #[test]
    fn texts_and_globals_are_not_copied_and_values_are_counted() {
        // a text of 1 MB, and 200,000 globals named by it
        let mut bytes = b"\x80\x04X\x00\x00\x10\x00".to_vec();
        bytes.extend(vec![b'a'; 1 << 20]);
        bytes.push(0x94);
        bytes.extend(b"h\x00h\x00\x93".repeat(200_000));
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().values.len(), 200_001);

        for op in [&b"N"[..], b"(", b"N2222222222", b"N\x94"] {
            let mut bytes = b"\x80\x04N".to_vec();
            bytes.extend(op.repeat(MAX_VALUES));
            bytes.push(b'.');
            let got = Pickle::read(&bytes).unwrap_err();
            assert!(got.contains("more than 4194304 values"), "{got}");
        }
    }

    #[test]
    fn broken_pickles_are_errors() {
        let cases: &[&[u8]] = &[
            b"",
            b".",
            b"\x80",
            b"R.",
            b"K",
            b"X\xff\xff\xff\xffabc",
            b"\x8d\xff\xff\xff\xff\xff\
            \xff\xff\xffabc",
            b"h\x05.",
            b"t.",
            b"(0.",
            b"cmodule",
            b"\xfe",
            b"(K\x01(\x86.",
        ];
        for bytes in cases {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
