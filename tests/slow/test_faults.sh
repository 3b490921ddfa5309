# A fault at every tenth call of every program; tests/command/test_faults.py 1 takes each, for half an hour or more.
exec python3 "$SOURCE_DIR/tests/command/test_faults.py" 10
