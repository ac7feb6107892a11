"""Config: schema, checks, identity hash, search path, --help, and one-line errors."""
