"""The ONNX operators that Fathom imports: one small function each, found by `onnx_table.table()`."""
