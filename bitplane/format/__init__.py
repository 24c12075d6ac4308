"""The packed file, as `train`, `export` and `runtime` agree on it (`FORMAT.md`): nothing here imports a room."""
