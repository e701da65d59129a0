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
#[derive(Debug, Default)]
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
        match machine.run() {
            Ok(()) => Ok(machine.pickle),
            Err(problem) => {
                let at = bytes.len() - machine.rest.len();
                Err(format!("{problem} at byte {at} of the pickle"))
            }
        }
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
    pickle: Pickle<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            let [op] = self.array()?;
            self.check_size()?;
            // STOP
            if op == b'.' {
                self.pickle.root = self.pop()?;
                return Ok(());
            }
            match self.value(op)? {
                Some(value) => {
                    self.stack.push(self.pickle.values.len() as Id); // less than `MAX_VALUES`
                    self.pickle.values.push(value);
                }
                None => self.arrange(op)?,
            }
        }
    }

    /// The new value that an opcode makes, if it is one of those that make one.
    fn value(&mut self, op: u8) -> Result<Option<Value<'a>>, String> {
        Ok(Some(match op {
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => Value::Opaque,
            b'G' => opaque(self.take(8)?),
            // BININT, BININT1, BININT2, LONG1, LONG4
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.array::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            0x8a => long(self.counted::<1>()?),
            0x8b => long(self.counted::<4>()?),
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => text(self.counted::<1>()?),
            b'X' => text(self.counted::<4>()?),
            0x8d => text(self.counted::<8>()?),
            // SHORT_BINSTRING, SHORT_BINBYTES, BINSTRING, BINBYTES, BINBYTES8, BYTEARRAY8
            b'U' | b'C' => opaque(self.counted::<1>()?),
            b'T' | b'B' => opaque(self.counted::<4>()?),
            0x8e | 0x96 => opaque(self.counted::<8>()?),

            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => Value::Tuple(vec![]),
            0x85..=0x87 => Value::Tuple(self.pop_last(usize::from(op - 0x84))?),
            b't' => Value::Tuple(self.pop_to_mark()?),
            // EMPTY_LIST, LIST
            b']' => Value::List(vec![]),
            b'l' => Value::List(self.pop_to_mark()?),
            // EMPTY_DICT, DICT
            b'}' => Value::Dict(vec![]),
            b'd' => Value::Dict(pairs(&self.pop_to_mark()?).collect()),
            // EMPTY_SET, FROZENSET
            0x8f => Value::Opaque,
            0x91 => {
                self.pop_to_mark()?;
                Value::Opaque
            }

            // GLOBAL, STACK_GLOBAL
            b'c' => Value::Global(self.line()?, self.line()?),
            0x93 => {
                let parts = self.pop_last(2)?;
                let text = |part: usize| self.pickle.text(parts[part]);
                let (module, name) = text(0).zip(text(1)).ok_or("a global without a name")?;
                Value::Global(module, name)
            }
            // REDUCE, NEWOBJ, NEWOBJ_EX
            b'R' | 0x81 => self.call(2)?,
            0x92 => self.call(3)?,
            // BINPERSID
            b'Q' => Value::Persistent(self.pop()?),
            _ => return Ok(None),
        }))
    }

    /// Does what an opcode says that makes no value.
    fn arrange(&mut self, op: u8) -> Result<(), String> {
        match op {
            // PROTO, FRAME
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            // APPEND, SETITEM, APPENDS, SETITEMS
            b'a' | b's' | b'e' | b'u' => {
                let items = match op {
                    b'a' => self.pop_last(1)?,
                    b's' => self.pop_last(2)?,
                    _ => self.pop_to_mark()?,
                };
                self.extend(&items)?;
            }
            // ADDITEMS
            0x90 => drop(self.pop_to_mark()?),
            // MARK, POP, POP_MARK, DUP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' | b'r' | 0x94 => {
                let key = match op {
                    b'q' => self.array::<1>()?[0].into(),
                    b'r' => u32::from_le_bytes(self.array()?),
                    _ => self.memo.len() as u32, // less than `MAX_VALUES`
                };
                self.memo.insert(key, self.top()?);
            }
            // BINGET, LONG_BINGET
            b'h' | b'j' => {
                let key = match op {
                    b'h' => self.array::<1>()?[0].into(),
                    _ => u32::from_le_bytes(self.array()?),
                };
                let id = self.memo.get(&key).ok_or("an unknown memo key")?;
                self.stack.push(*id);
            }
            // BUILD: attributes of an object, such as `_metadata` of a state dict
            b'b' => drop(self.pop()?),
            other => return Err(format!("unknown opcode {other:#04x}")),
        }
        Ok(())
    }

    /// Holds before every opcode, each of which adds one entry to each at most.
    fn check_size(&self) -> Result<(), String> {
        let largest = [
            self.pickle.values.len(),
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

    /// The lowest stack position that belongs to the innermost mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
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
    fn extend(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.pickle.values[top as usize] {
            Value::List(list) => list.extend(items),
            Value::Dict(dict) => dict.extend(pairs(items)),
            _ => {}
        }
        Ok(())
    }

    /// A call of the first of the last `n` values with the second.
    fn call(&mut self, n: usize) -> Result<Value<'a>, String> {
        let parts = self.pop_last(n)?;
        let (callable, args) = (parts[0], parts[1]);
        Ok(match self.pickle.get(callable) {
            Value::Global("collections", "OrderedDict" | "defaultdict") => Value::Dict(vec![]),
            _ => Value::Call { callable, args },
        })
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

    /// As many bytes as the number in the next `N` says.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let mut count = [0; 8];
        count[..N].copy_from_slice(&self.array::<N>()?);
        let count = usize::try_from(u64::from_le_bytes(count)).map_err(|e| e.to_string())?;
        self.take(count)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&b| b == b'\n');
        let line = self.take(end.ok_or("a name without an end")?)?;
        self.array::<1>()?;
        let line = std::str::from_utf8(line).map_err(|e| format!("a name: {e}"))?;
        Ok(line.trim_end())
    }
}

/// Keys and values that follow each other.
fn pairs(items: &[Id]) -> impl Iterator<Item = (Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1]))
}

/// A little-endian signed integer of any length.
fn long<'a>(bytes: &[u8]) -> Value<'a> {
    let negative = bytes.last().is_some_and(|&b| b >= 0x80);
    let mut le = if negative { [0xff; 8] } else { [0; 8] };
    match le.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(le))
        }
        None => Value::Opaque,
    }
}

/// Python also writes halves of surrogate pairs, which no name of a tensor has.
fn text(bytes: &[u8]) -> Value<'_> {
    std::str::from_utf8(bytes).map_or(Value::Opaque, Value::Text)
}

fn opaque<'a>(_: &[u8]) -> Value<'a> {
    Value::Opaque
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
