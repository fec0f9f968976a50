//! The wire format of protocol buffers, as far as Kubernetes uses it: varints and length-delimited fields. Nothing is
//! copied: strings are slices of the answer.

/// The bytes are no message of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf: {0}")]
pub(crate) struct WireError(pub(crate) &'static str);

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A varint: integers and booleans.
    Number(u64),
    /// A string, a message, or bytes.
    Bytes(&'a [u8]),
    /// Four or eight bytes: nothing that is used here.
    Fixed,
}

/// The fields of a message, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for (position, byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the last bit.
            if position == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                self.0 = &self.0[position + 1..];
                return Ok(value);
            }
        }
        Err(WireError("a number does not end"))
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let parts = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (bytes, rest) = parts.ok_or(WireError("a field is longer than what holds it"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError("a field number is too large"))?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            // Groups: deprecated before Kubernetes was written.
            _ => return Err(WireError("a field is of an unknown type")),
        };
        if number == 0 { Err(WireError("a field has the number 0")) } else { Ok((number, value)) }
    }
}

/// Takes the fields of this number of a message, and leaves the others alone.
pub(crate) fn inner<'a>(
    message: Value<'a>,
    number: u32,
    mut take: impl FnMut(Value<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    for field in Fields::new(message.bytes()?) {
        let (found, value) = field?;
        if found == number {
            take(value)?;
        }
    }
    Ok(())
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) | Self::Fixed => Err(WireError("a number stands where bytes belong")),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError("a string is not valid UTF-8"))
    }

    pub(crate) fn number(self) -> Result<u64, WireError> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed => Err(WireError("bytes stand where a number belongs")),
        }
    }
}

/// What stands before every answer (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`); then comes a
/// `runtime.Unknown`.
const MAGIC: &[u8] = b"k8s\0";

/// The object in an answer; `None` if the answer is no protobuf of Kubernetes.
pub(crate) fn object(answer: &[u8]) -> Option<Result<&[u8], WireError>> {
    answer.strip_prefix(MAGIC).map(|unknown| {
        let mut raw = None;
        for field in Fields::new(unknown) {
            match field? {
                (2, value) => raw = Some(value.bytes()?),
                (3, encoding) if !encoding.bytes()?.is_empty() => {
                    return Err(WireError("the object is encoded once more"));
                }
                _ => {}
            }
        }
        raw.ok_or(WireError("no object in the answer"))
    })
}

/// The beginning of the object in an answer whose end has not come yet; `None` if it has not begun, or is no protobuf.
pub(crate) fn beginning(answer: &[u8]) -> Option<&[u8]> {
    const OBJECT: u64 = 2 << 3 | 2;
    let mut unknown = Fields::new(answer.strip_prefix(MAGIC)?);
    loop {
        let mut ahead = unknown.clone();
        if ahead.varint().ok()? == OBJECT {
            let length = usize::try_from(ahead.varint().ok()?).ok()?;
            return Some(&ahead.0[..length.min(ahead.0.len())]);
        }
        unknown.field().ok()?;
    }
}

/// What a field of a message becomes. A field that comes again is replaced; a message is merged, a list grows.
pub(crate) trait Field<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError>;
}

/// A message: which of its fields are used, by number.
pub(crate) trait Message<'a>: Default {
    /// Takes a field; those that are not used are left alone.
    fn field(&mut self, number: u32, value: Value<'a>) -> Result<(), WireError>;

    /// Takes all fields.
    fn merge(&mut self, message: &'a [u8]) -> Result<(), WireError> {
        for field in Fields::new(message) {
            let (number, value) = field?;
            self.field(number, value)?;
        }
        Ok(())
    }
}

impl Field<'_> for i64 {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        // Negative numbers are sent as their two's complement.
        *self = value.number()?.cast_signed();
        Ok(())
    }
}

impl Field<'_> for bool {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        *self = value.number()? != 0;
        Ok(())
    }
}

impl Field<'_> for Option<i64> {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        self.get_or_insert_default().put(value)
    }
}

impl<'a, M: Message<'a>> Field<'a> for Vec<M> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        let mut message = M::default();
        message.merge(value.bytes()?)?;
        self.push(message);
        Ok(())
    }
}

impl<'a, M: Message<'a>> Field<'a> for Option<M> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        self.get_or_insert_default().merge(value.bytes()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &[u8]) -> Result<Vec<u32>, WireError> {
        Fields::new(message).map(|field| field.map(|(number, _)| number)).collect()
    }

    #[test]
    fn fields_are_read_by_number_and_type() {
        // 1: varint 300, 2: "ab", 3: fixed64, 4: fixed32.
        let message = [8, 0xac, 2, 18, 2, b'a', b'b', 25, 1, 2, 3, 4, 5, 6, 7, 8, 37, 1, 2, 3, 4];
        assert_eq!(fields(&message), Ok(vec![1, 2, 3, 4]));
        for length in 0..message.len() {
            // Cut anywhere but between two fields it is an error, never a panic.
            let whole = [0, 3, 7, 16].contains(&length);
            assert_eq!(fields(&message[..length]).is_ok(), whole, "{length}");
        }
        let mut number = 0_i64;
        for field in Fields::new(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]) {
            number.put(field.unwrap().1).unwrap();
        }
        assert_eq!(number, -1);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [
            &[0xff; 11][..],
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[11],
            &[12],
            &[0, 0],
            &[18, 3, 1, 2],
        ] {
            assert!(fields(message).is_err(), "{message:?}");
        }
    }
}
