"""A command `nvidia-smi` that answers like the real one on machines that the tests do not have."""

from pathlib import Path

FIELDS = ("name", "memory.total", "driver_version", "compute_cap")
QUERIES = (",".join(FIELDS), ",".join(FIELDS[:3]), "memory.used,memory.total", "uuid", "memory.total", "compute_cap")


def install(
    folder: Path, rows: list[dict], xml: str | bytes = "", status: int = 0, said: str = "", old: bool = False
) -> None:
    """Writes the command into ``folder``; put that on PATH.

    rows: one a GPU, what it answers for each field (a missing field: [N/A]). xml: what it prints for `-q -x`. status:
    its exit status. said: its whole answer to any query, where it lists no GPU. old: it does not know compute_cap.
    """
    answers = folder / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for query in QUERIES:
        lines = [", ".join(str(row.get(field, "[N/A]")) for field in query.split(",")) for row in rows]
        text = said or "".join(f"{line}\n" for line in lines)
        if old and "compute_cap" in query:
            text = 'Field "compute_cap" is not a valid field to query.\n'
        (answers / f"--query-gpu={query}").write_text(text, encoding="utf-8")
    (answers / "-q").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    command = folder / "nvidia-smi"
    refuse = 'case "$1" in *compute_cap*) exit 2;; esac\n' if old else ""
    command.write_text(f"#!/bin/sh\n/bin/cat '{answers}/'\"$1\" || exit 2\n{refuse}exit {status}\n")
    command.chmod(0o755)


def gpu(name: str, memory: object, driver: str, capability: object = "8.9", **more: object) -> dict:
    """A row for :func:`install`. more: used, uuid."""
    fields = dict(zip(FIELDS, (name, memory, driver, capability), strict=True))
    return fields | {{"used": "memory.used"}.get(field, field): value for field, value in more.items()}


def gpu_xml(*gpus, cuda="13.0"):
    """What `nvidia-smi -q -x` prints, cut to what is read.

    A GPU: MiB used, MiB in all, {pid: MiB}, slices' MiB, and if wanted its name and UUID. Text stands for itself.
    """

    def amount(value):
        return f"{value} MiB" if isinstance(value, int) else value

    parts = []
    for used, total, pids, slices, *who in gpus:
        name, uuid = (*who, "NVIDIA", "GPU-0")[:2] if len(who) != 1 else (who[0], "GPU-0")
        memory = "<fb_memory_usage><total>{}</total><reserved>0 MiB</reserved><used>{}</used></fb_memory_usage>"
        migs = "".join(
            f"<mig_device><index>0</index>{memory.format(amount(size), amount(0))}</mig_device>" for size in slices
        )
        processes = "".join(
            f"<process_info><pid>{pid}</pid><type>C</type><process_name>[Not Found]</process_name>"
            f"<used_memory>{f'{size} MiB' if size else 'N/A'}</used_memory></process_info>"
            for pid, size in pids.items()
        )
        parts.append(
            f'<gpu id="0"><product_name>{name}</product_name><uuid>{uuid}</uuid>'
            f"<mig_devices>{migs or 'None'}</mig_devices>"
            f"{memory.format(amount(total), amount(used))}<processes>{processes}</processes></gpu>"
        )
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">\n<nvidia_smi_log>'
        f"<driver_version>580.95.05</driver_version><cuda_version>{cuda}</cuda_version>{''.join(parts)}</nvidia_smi_log>\n"
    )
