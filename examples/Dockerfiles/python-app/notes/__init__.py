"""Notes kept in SQLite, read and written over HTTP."""
