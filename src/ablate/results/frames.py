"""Frames of mixed columns as Parquet, so that reading gives what was written, fast."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

#: metadata key that names the columns written as JSON
_AS_JSON = b"ablate.json"


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Writes a frame; columns that are not numbers become JSON texts in a dictionary.

    Records hold lists, texts, nulls and numbers of several kinds in one column, which Parquet has
    no type for; few of the values differ, so a dictionary of their JSON is small.
    """
    arrays, as_json = {}, []
    for column in frame.columns:
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            arrays[str(column)] = pa.array(values.to_numpy())
            continue
        texts = [None if _absent(value) else _text(value) for value in values]
        arrays[str(column)] = pa.array(texts, pa.string()).dictionary_encode()
        as_json.append(str(column))
    table = pa.table(arrays).replace_schema_metadata({_AS_JSON: json.dumps(as_json).encode()})
    pq.write_table(table, path, compression="zstd")


def read_frame(path: Path) -> pd.DataFrame:
    """Reads what `write_frame` wrote: the same values; absent ones are NaN."""
    table = pq.read_table(path)
    as_json = set(json.loads((table.schema.metadata or {}).get(_AS_JSON, b"[]")))
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if name not in as_json:
            columns[name] = column.to_numpy()
            continue
        chunk = column.combine_chunks()
        if not isinstance(chunk, pa.DictionaryArray):
            chunk = chunk.dictionary_encode()
        known = [json.loads(text) for text in chunk.dictionary.to_pylist()]
        codes = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        # one more place for what is absent: -1 takes the last
        places = np.empty(len(known) + 1, dtype=object)
        places[:-1] = known
        places[-1] = np.nan
        columns[name] = pd.Series(places[codes]).infer_objects()
    # one block per kind of number in place of one per column
    return pd.DataFrame(columns).copy()


def _absent(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
