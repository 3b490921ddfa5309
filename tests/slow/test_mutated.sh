# A thousand mutated files: tests/command/test_mutated.py with more cases than the command label has time for.
exec python3 "$SOURCE_DIR/tests/command/test_mutated.py" 0 1000
