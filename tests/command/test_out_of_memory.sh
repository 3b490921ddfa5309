# Memory that the system refuses, here beyond 1 GiB of address space (fault.c), as a scheduler may: half the batch and once more, or exit code 1
# and one line; never a signal.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
python3 -B - "$work" <<'END'
import os, sys
from pathlib import Path
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
from faults import COMMON, TINY, Server

work = Path(sys.argv[1])
os.environ["FAULT_MIB"] = "1024"
server = Server("nla-train", work)
args = ["nla-train", *COMMON, "--model", TINY / "model", "--av", work / "av", "--ar", TINY / "ar", "--data", work / "train", "--out", work / "run",
        "--overwrite", "--steps", "1", "--lora.rank", "2", "--log.probe", "0"]
for prompts, group, tokens in (32, 64, 400), (1024, 16, 100): # where 5 GiB are free the first fits by halves, the second does not
    code, said = server.run([*args, "--prompts", prompts, "--group", group, "--max-new-tokens", tokens])
    last = said.rstrip("\n").rpartition("\n")[2]
    print(f"    {prompts} x {group} x {tokens}: exit {code}, out of memory {said.count('out of memory')} times")
    assert code == 0 and last.startswith("done: ") or code == 1 and last.startswith("nla-train: ") and "out of memory, lower" in last, (code, last)
server.close()
END
