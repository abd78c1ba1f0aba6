"""The tables of today, as queries name them. What they mean and how they are made is in `migrations/`."""

from sqlalchemy import TableClause, column, table


def _table(name: str, columns: str) -> TableClause:
    return table(name, *(column(c) for c in columns.split()))


RUNS = _table("runs", "id fathom command recipe started ended summary")
CASES = _table("cases", "digest program region overseer created")
SETS = _table(
    "sets",
    "id case_digest place arithmetic lower seal upper deployed broken reason lower_run found_run "
    "seconds forward backward boxes updated",
)
POINTS = _table("points", "id set_id digest kind deployed real_lower real_upper in_written arrays run created")
RUN_CASES = _table("run_cases", "run place case_digest title lower upper verdict")
BRACKETS = _table(
    "brackets",
    "case_digest arithmetic sets lower upper deployed verdict claim reason seconds forward backward boxes updated",
)
QUESTIONS = _table("questions", "digest program title arrays judges created")
JUDGEMENTS = _table("judgements", "id question judge opinion note created")
TABLES = (RUNS, CASES, SETS, POINTS, RUN_CASES, BRACKETS, QUESTIONS, JUDGEMENTS)
