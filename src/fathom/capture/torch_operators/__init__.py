"""What each aten operator becomes: functions marked `@imports("name")`, which `torch_table.table` finds."""
