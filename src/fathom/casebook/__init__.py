"""The casebook: every case that was ever asked, and the tightest bracket, the proofs and the failures known of it.

`store.Casebook` opens and reads one; `Casebook.begin` gives the `recorder.Recorder` that writes one audit into it. A case
is addressed by the digest of its question (`Problem.digests`), so the same question finds what was known of it, whoever
asked, and a changed model, region or label is another case.

What is trusted. A *point* out of a casebook never is: it is a candidate that `confirm` judges again on the program at
hand. A *lower bound* is: it is what some version of Fathom proved, kept with that version, its arithmetic and a checksum
against accidents, and the file is trusted as far as the machine it lies on. Use only casebooks that you would let write
your report. A version whose proofs turn out wrong is withdrawn by a migration that takes its lower bounds back.
"""
