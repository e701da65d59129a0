"""Labels a folder on a Ray cluster, one task for each of N parts.

    pip install "ray[data]"
    python tools/ray_label.py N INPUT OUTPUT [flags of `sam3 label`]

Input, output and model must be at the same place on every machine. Only exit codes go through Ray: what is done
stands in the journals below OUTPUT, so that a part whose worker dies is continued and not begun anew, and a rerun of
this script does only the rest. Take four to eight times as many parts as workers.

Ray lowers the priority of its workers, and so of the program that they call: set RAY_worker_niceness=0 before the
cluster starts if nothing else needs the machine.

RAY_ADDRESS is the cluster (default: this machine alone), SAM3 the program to call (default: sam3), CPUS_PER_TASK and
GPUS_PER_TASK are what each task needs (default: one CPU, no GPU).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

SAM3 = os.environ.get("SAM3", "sam3")
CPUS = float(os.environ.get("CPUS_PER_TASK", 1))
GPUS = float(os.environ.get("GPUS_PER_TASK", 0))
TRIES = 3


def end_with_parent():
    """A worker that is killed takes its engine with it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def label_part(batch, parts, source, output, flags):
    for index in batch["id"]:
        command = [SAM3, "label", source, "-o", output, "--shard", f"{index}/{parts}", "--resume", *flags]
        for left in reversed(range(TRIES)):
            done = subprocess.run(command, preexec_fn=end_with_parent, capture_output=True, text=True)
            if done.returncode == 0:
                break
            if left == 0:
                raise RuntimeError(f"part {index}: {done.stderr.strip()}")
            # The engine of a killed worker may hold the part's lock for another moment.
            time.sleep(2)
    return batch


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    import ray

    count, source, output, *flags = sys.argv[1:]
    parts, source, output = int(count), os.path.abspath(source), os.path.abspath(output)
    ray.init(address=os.environ.get("RAY_ADDRESS", "local"))
    what = {"parts": parts, "source": source, "output": output, "flags": flags}
    # Not ray.data.range: on a small cluster its reading tasks find no processor free, and all wait.
    numbers = ray.data.from_items([{"id": index} for index in range(parts)], override_num_blocks=parts)
    numbers.map_batches(label_part, batch_size=1, num_cpus=CPUS, num_gpus=GPUS or None, fn_kwargs=what).take_all()
    subprocess.run([SAM3, "merge", output], check=True)


if __name__ == "__main__":
    main()
