# A fault at every call of every program: tests/command/test_faults.py with all of them.
exec python3 "$SOURCE_DIR/tests/command/test_faults.py" 1
