//! Cells of Arrow columns as JSON.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use serde_json::{Map, Value};

/// The cell as JSON; none where it is null or of a type that no dataset format uses. Null members of a struct are left out:
/// a column of unlike objects has them all.
pub(super) fn value(column: &dyn Array, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    macro_rules! number {
        ($type:ty) => {
            Some(Value::from(column.as_primitive::<$type>().value(row)))
        };
    }
    match column.data_type() {
        DataType::Boolean => Some(Value::Bool(column.as_boolean().value(row))),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => Some(Value::from(column.as_string::<i32>().value(row))),
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            Some((0..list.len()).map(|at| value(list.as_ref(), at).unwrap_or(Value::Null)).collect())
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(column.as_struct().columns());
            let members = columns
                .filter_map(|(field, column)| Some((field.name().clone(), value(column.as_ref(), row)?)));
            Some(Value::Object(members.collect::<Map<_, _>>()))
        }
        _ => None,
    }
}
