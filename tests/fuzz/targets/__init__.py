"""One parser a file: `seeds()` are well-formed inputs, `one_input(data)` raises only when something is wrong."""
