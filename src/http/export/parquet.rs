//! Parquet, column by column.
//!
//! Rows are gathered into row groups of a bounded size; each goes out as soon as
//! it is full, and the footer at the end. Amounts are DECIMAL(38,0) in 16 bytes,
//! big-endian, which is what `NUMERIC(38,0)` is to every reader.

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::table::{Column, Failed, Kind, Value};
use crate::ledger::amount::AMOUNT_DIGITS_MAX;

/// Rows of a group: they are in memory until it is full, some 10 MB of a journal.
const GROUP_ROWS_MAX: usize = 32_768;
/// Bytes of a group's texts and objects, where those are long.
const GROUP_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of an amount: those of an `i128`.
const AMOUNT_BYTES: i32 = 16;

pub struct Writer {
    file: SerializedFileWriter<Vec<u8>>,
    columns: Vec<Gathered>,
    rows: usize,
    bytes: usize,
}

/// What has been gathered of a column.
struct Gathered {
    column: Column,
    /// 1 for a value, 0 for null.
    levels: Vec<i16>,
    values: Values,
}

enum Values {
    Bytes(Vec<ByteArray>),
    Integers(Vec<i64>),
    Amounts(Vec<FixedLenByteArray>),
}

impl Writer {
    pub fn new(columns: &'static [Column]) -> Result<Self, Failed> {
        let fields = columns.iter().map(field).collect::<Result<Vec<TypePtr>, ParquetError>>()?;
        let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("steelyard ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
        let columns = columns.iter().map(|column| Gathered {
            column: *column,
            levels: Vec::new(),
            values: match column.kind {
                Kind::Text | Kind::Json => Values::Bytes(Vec::new()),
                Kind::Integer | Kind::Time => Values::Integers(Vec::new()),
                Kind::Amount => Values::Amounts(Vec::new()),
            },
        });
        Ok(Self { file, columns: columns.collect(), rows: 0, bytes: 0 })
    }

    /// Adds a row; a group that is full goes to `out`.
    pub fn row(&mut self, values: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), Failed> {
        for (gathered, value) in self.columns.iter_mut().zip(values) {
            self.bytes += gathered.add(value)?;
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS_MAX || self.bytes >= GROUP_BYTES_MAX {
            self.write_group(out)?;
        }
        Ok(())
    }

    /// The last group and the footer.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Failed> {
        if self.rows > 0 {
            self.write_group(out)?;
        }
        out.append(&mut self.file.into_inner()?);
        Ok(())
    }

    fn write_group(&mut self, out: &mut Vec<u8>) -> Result<(), Failed> {
        let mut group = self.file.next_row_group()?;
        for gathered in &mut self.columns {
            match &mut gathered.values {
                Values::Bytes(values) => {
                    write_column::<ByteArrayType>(&mut group, gathered.column, &mut gathered.levels, values)?;
                }
                Values::Integers(values) => {
                    write_column::<Int64Type>(&mut group, gathered.column, &mut gathered.levels, values)?;
                }
                Values::Amounts(values) => {
                    write_column::<FixedLenByteArrayType>(&mut group, gathered.column, &mut gathered.levels, values)?;
                }
            }
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        self.file.flush().map_err(ParquetError::from)?;
        // It counts for itself where in the file it is.
        out.append(self.file.inner_mut());
        Ok(())
    }
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    column: Column,
    levels: &mut Vec<i16>,
    values: &mut Vec<T::T>,
) -> Result<(), Failed> {
    let mut writer = group.next_column()?.ok_or(Failed::Kind(column.name))?;
    writer.typed::<T>().write_batch(values, column.nullable.then_some(&**levels), None)?;
    writer.close()?;
    levels.clear();
    values.clear();
    Ok(())
}

impl Gathered {
    /// Answers how many bytes of memory a value has beside its place.
    fn add(&mut self, value: &Value<'_>) -> Result<usize, Failed> {
        if self.column.nullable {
            self.levels.push(i16::from(!matches!(value, Value::Null)));
        }
        match (&mut self.values, value) {
            (_, Value::Null) if self.column.nullable => {}
            (Values::Bytes(values), Value::Text(text) | Value::Json(text)) => {
                values.push(ByteArray::from(text.as_bytes().to_vec()));
                return Ok(text.len());
            }
            (Values::Integers(values), Value::Integer(number)) => values.push(*number),
            (Values::Integers(values), Value::Time(time)) => values.push(time.timestamp_micros()),
            (Values::Amounts(values), Value::Amount(amount)) => {
                values.push(FixedLenByteArray::from(amount.get().to_be_bytes().to_vec()));
            }
            _ => return Err(Failed::Kind(self.column.name)),
        }
        Ok(0)
    }
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        Kind::Amount => (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::decimal(0, AMOUNT_DIGITS_MAX as i32))),
    };
    let mut builder = Type::primitive_type_builder(column.name, physical)
        .with_repetition(if column.nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED })
        .with_logical_type(logical);
    if column.kind == Kind::Amount {
        builder = builder.with_length(AMOUNT_BYTES).with_precision(AMOUNT_DIGITS_MAX as i32).with_scale(0);
    }
    builder.build().map(Arc::new)
}
