"""PatchCore: good pictures in, a memory bank out; pictures in, verdicts out."""
