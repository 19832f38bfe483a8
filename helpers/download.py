"""Downloads a model from ModelScope and makes sure that it is really there.

`python -m helpers.download Qwen/Qwen3-0.6B` prints the folder. The work is done by ModelScope's own client; this module
asks first whether the model exists and fits the disk, understands what is already there, and says in one sentence what
went wrong and what to do. Whatever was downloaded stays: running it again goes on from there.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers import CourseError
from helpers.cache import hub_caches, hub_copies, hub_folders, is_hub_id
from helpers.checkpoint import LISTING, Checkpoint, damaged, is_inside, shortened
from helpers.config import refuse_other_families
from helpers.files import replacing
from helpers.language import say

SENSELESS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # what the client raises at nonsense
CONFIG_LIMIT = 1_000_000  # bytes of a config.json; the longest published ones have a few thousand
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.EINVAL)


def download(model_id: str, revision: str = "master", folder: str | Path | None = None) -> Path:
    """Folder with a complete copy of a ModelScope model; fetches what is missing or damaged.

    The files go to ``folder`` or into ModelScope's cache (``MODELSCOPE_CACHE``, else AutoDL's data disk, else the
    home); a copy that is already there, whole or in part, is used and completed, in old clients' layouts too. The
    client checks every file against the hub's SHA256. Without a network, or without permission to write, a complete
    copy is verified and returned. A model of a family that the course does not run is refused before any weights come.
    Raises CourseError, and never returns a part of a model.
    """
    from modelscope_hub import errors  # `import modelscope`, a shell around it, would import torch

    if not is_hub_id(model_id):
        raise CourseError(
            f"{model_id!r} 不是 ModelScope 的模型 id：写成「所有者/名称」，例如 Qwen/Qwen3-8B。",
            f"{model_id!r} is no ModelScope id: write owner/name, for example Qwen/Qwen3-8B.",
        )
    cache, folder = _place(model_id, revision, folder)
    _refuse_no_folder(folder)
    try:
        endpoint, files = _ask_hub(model_id, revision)
        _check_space(folder, files)
        listing = _with_known_sums(files, Checkpoint(folder).listing)
        _check_family(model_id, revision, endpoint, folder, files)
        _write_listing(folder, listing)
        folder = _fetch(model_id, revision, endpoint, cache, folder, files)
    except (errors.HubError, OSError) as error:  # some of these are ValueErrors too
        failure = _explain(error, folder)
        if Checkpoint(folder).broken:
            raise failure from error
        verify(folder)
        copy = say(f"改用磁盘上的完整副本：{folder}", f"Using the complete copy on disk: {folder}")
        print(failure, copy, sep="\n", file=sys.stderr)
        return folder
    except SENSELESS as error:
        raise CourseError(
            f"看不懂 ModelScope 对 {model_id} 的回答（{type(error).__name__}）：过一会儿再运行，或检查代理。",
            f"The hub's answer about {model_id} makes no sense ({type(error).__name__}): run it again later, or check "
            "the proxy.",
        ) from error
    if broken := Checkpoint(folder).broken:
        raise CourseError(
            f"{model_id} 下载后仍不完整（{shortened(broken)}）：删除它们再运行；若还是这样，就是仓库缺文件。",
            f"{model_id} is still incomplete ({shortened(broken)}): delete these files and run it again; if it "
            "stays so, the repository itself lacks them.",
        )
    if unsummed := [path for path, (_, sum_) in files.items() if sum_ is None]:  # the client could not check these
        for path in unsummed:
            listing[path][1] = listing[path][1] or _sha256(folder / path)
        _write_listing(folder, listing)
        verify(folder)
    return folder


def verify(folder: str | Path) -> bool:
    """Check every byte of a model against the SHA256 sums that the hub gave when :func:`download` fetched it.

    Returns True if all sums were known and match, False if the files are complete but the sum of one or more is not
    known (a folder that another program filled). Raises CourseError that names the damaged files.
    """
    folder = Path(folder)
    checkpoint = Checkpoint(folder)
    bad, sums = list(checkpoint.broken), {path: sha for path, (_, sha) in checkpoint.listing.items()}
    known = [path for path, sha in sums.items() if sha and path not in bad]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashlib computes outside Python's global lock
        found = dict(zip(known, pool.map(lambda path: _sha256(folder / path), known), strict=True))
    bad += [path for path in known if found[path] != sums[path]]
    if bad:
        raise CourseError(
            f"{folder} 里的文件已损坏或缺失（{shortened(bad)}）：删除它们，联网后运行 "
            "`python -m helpers.download 模型ID`，只会重新下载这些文件。",
            f"Files in {folder} are damaged or missing ({shortened(bad)}): delete them and, with a network, run "
            "`python -m helpers.download ID`; it fetches only these again.",
        )
    return bool(sums) and all(sums.values())


def _place(model_id: str, revision: str, folder: str | Path | None) -> tuple[Path, Path]:
    """Cache and folder to use: a complete copy anywhere, else what was begun in the first cache, else a new folder."""
    caches = hub_caches()
    if folder is not None:
        return caches[0], Path(os.path.abspath(os.path.expanduser(folder)))
    copies = hub_copies(model_id, revision)
    if copies and not copies[0].broken:
        folder = copies[0].folder
        return next(cache for cache in caches if folder.is_relative_to(cache)), folder
    begun = [copy.folder for copy in copies if copy.folder.is_relative_to(caches[0])]
    return caches[0], [*begun, *hub_folders(model_id, revision)][0]


def _ask_hub(model_id: str, revision: str) -> tuple[str, dict[str, list]]:
    """Endpoint that has the model, and its files: path -> [bytes, sha256 or None]."""
    from modelscope_hub import HubApi, HubConfig
    from modelscope_hub.errors import NotExistError

    try:
        endpoint = HubApi(HubConfig()).resolve_endpoint_for_read(model_id)
        entries = HubApi(endpoint=endpoint).list_repo_files(model_id, "model", revision=revision)
        files = {entry.path: [entry.size, entry.sha256 or None] for entry in entries if not entry.is_dir}
    except NotExistError:
        if revision != "master" and _ask_hub(model_id, "master"):
            raise CourseError(
                f"{model_id} 没有 {revision} 这个版本：不写版本，或到模型页面的「模型文件」查看有哪些版本。",
                f"{model_id} has no revision {revision}: leave it out, or see the model page's list of files.",
            ) from None
        raise CourseError(
            f"ModelScope 上没有 {model_id}：检查所有者、大小写和拼写，例如 Qwen/Qwen3-8B。",
            f"ModelScope has no {model_id}: check owner, case and spelling, as in Qwen/Qwen3-8B.",
        ) from None
    bad = [path for path, (size, _) in files.items() if not _is_sound(path, size)]
    if bad:
        raise CourseError(
            f"ModelScope 上 {model_id} 的文件清单不可信（{shortened([repr(path) for path in bad])}）：什么也没有下载，"
            "请换一个模型。",
            f"The hub's list of {model_id} cannot be trusted ({shortened([repr(path) for path in bad])}): nothing was "
            "downloaded; take another model.",
        )
    return endpoint, files


def _is_sound(path, size) -> bool:
    """Whether a hub may list this: a file that lies inside the model's folder, and not our own list there."""
    names_file = isinstance(path, str) and is_inside(path) and path != LISTING
    return names_file and type(size) is int and size >= 0


def _check_family(model_id: str, revision: str, endpoint: str, folder: Path, files: dict[str, list]) -> None:
    """CourseError for a model that the course cannot run, from its config.json alone, which is all that is fetched.

    The client fetches it into the folder, where it waits for another process that does the same. Of a refused model
    nothing stays that was not there.
    """
    from modelscope_hub import HubApi

    if "config.json" not in files:
        return
    size, sum_ = files["config.json"]
    if size > CONFIG_LIMIT:
        raise damaged(f"{model_id} 的 config.json 有 {size} 字节", f"config.json of {model_id} has {size} bytes")
    own = folder / "config.json"
    there, new = own.exists(), [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if not (there and sum_ is None):
        options = {"revision": revision, "local_dir": str(folder), "expected_sha256": sum_, "file_size": size}
        HubApi(endpoint=endpoint).download_file(model_id, "model", "config.json", **options)
    try:
        refuse_other_families(Checkpoint(folder).config, model_id)
    except CourseError:
        if not there:
            own.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: another process has begun something there
            for place in new:
                place.rmdir()
        raise


def _refuse_no_folder(folder: Path) -> None:
    """CourseError where something that is no folder is in the way, with its path and what it is."""
    for place in (folder, *folder.parents):
        try:
            kind = os.lstat(place).st_mode
        except OSError:
            continue  # nothing there, or nothing that may be looked at: what writing says is clear
        if not os.path.isdir(place):
            link = stat.S_ISLNK(kind)
            raise CourseError(
                f"不能下载到 {folder}：{place} {'是失效的链接' if link else '不是文件夹'}。请移开它，或用 --folder、"
                "MODELSCOPE_CACHE 换一个地方。",
                f"Cannot download to {folder}: {place} is {'a link that leads nowhere' if link else 'not a folder'}. "
                "Move it away, or choose another place with --folder or MODELSCOPE_CACHE.",
            )
        return


def _fetch(model_id: str, revision: str, endpoint: str, cache: Path, folder: Path, files: dict[str, list]) -> Path:
    """Runs the client, again as long as the connection breaks but bytes arrive. Returns the client's folder."""
    from modelscope_hub.compat.snapshot_download import snapshot_download
    from modelscope_hub.errors import FileDownloadError, NetworkError

    while True:
        before = _present(folder, files)
        try:
            return Path(
                snapshot_download(
                    model_id, revision=revision, endpoint=endpoint, cache_dir=str(cache), local_dir=str(folder)
                )
            )
        except FileDownloadError as error:
            cut_off = all(isinstance(cause, NetworkError) for cause in error.failed_files.values())
            if not cut_off or _present(folder, files) <= before:
                raise


def _present(folder: Path, files: dict[str, list]) -> int:
    """Bytes of the listed files that are already in the folder, partly downloaded ones included."""
    total = 0
    for path, (size, _) in files.items():
        for file in (folder / path, folder / f"{path}.incomplete"):
            with contextlib.suppress(FileNotFoundError):  # not there, or renamed by another process just now
                total += min(size, file.stat().st_size)
                break
    return total


def _check_space(folder: Path, files: dict[str, list]) -> None:
    missing = sum(size for size, _ in files.values()) - _present(folder, files)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if missing > (free := shutil.disk_usage(place).free):
        raise OSError(errno.ENOSPC, f"{missing / 1e9:.2f} GB > {free / 1e9:.2f} GB")


def _with_known_sums(files: dict[str, list], before: dict[str, list]) -> dict[str, list]:
    """The hub's listing, with the sum that an earlier download computed where the hub gives none."""
    known = {(path, size): sum_ for path, (size, sum_) in before.items()}
    return {path: [size, sum_ or known.get((path, size))] for path, (size, sum_) in files.items()}


def _write_listing(folder: Path, files: dict[str, list]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / LISTING) as file:
        file.write(json.dumps(files, indent=0).encode())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _explain(error: Exception, folder: Path) -> CourseError:
    """One sentence with the remedy for what stopped a download."""
    from modelscope_hub.errors import AuthenticationError, FileIntegrityError, PermissionDeniedError

    causes = getattr(error, "failed_files", {"": error})
    for path, cause in causes.items():
        number = getattr(cause, "errno", None)
        if number in FULL:
            return CourseError(
                f"磁盘空间不够（{cause.strerror}）：先腾出空间，或把 MODELSCOPE_CACHE 设到更大的磁盘"
                "（AutoDL 用数据盘），再运行一次；已下载的部分不会丢。",
                f"The disk is too small ({cause.strerror}): free some space or set MODELSCOPE_CACHE to a larger disk "
                "(on AutoDL the data disk), then run it again; what is there is kept.",
            )
        if number in FORBIDDEN:
            return CourseError(
                f"没有写入 {folder} 的权限：修改它的权限，或用 --folder 或 MODELSCOPE_CACHE 换一个地方。",
                f"No permission to write to {folder}: change its permissions, or choose another place with --folder or "
                "MODELSCOPE_CACHE.",
            )
        if number in IN_THE_WAY:
            place = getattr(cause, "filename", None) or folder
            return CourseError(
                f"写不了 {place}（{cause.strerror}）：请移开挡在那里的东西，或用 --folder 换一个地方。",
                f"Cannot write {place} ({cause.strerror}): move away what is there, or choose another --folder.",
            )
        if isinstance(cause, FileIntegrityError):
            return CourseError(
                f"{path} 几次收到的内容都与仓库不符，没有保留：过一会儿再运行，其余文件不会重新下载。",
                f"{path} arrived wrong several times and was not kept: run it again later; the other files stay.",
            )
        if isinstance(cause, (AuthenticationError, PermissionDeniedError)):
            return CourseError(
                "ModelScope 要求登录才能下载这个模型：先运行 `modelscope login`，再试一次。",
                "ModelScope wants a login for this model: run `modelscope login` and try again.",
            )
    return CourseError(
        "与 ModelScope 的连接失败：检查网络和代理设置，再运行一次；已下载的部分会接着用。",
        "The connection to ModelScope failed: check the network and any proxy, then run it again; it goes on from what "
        "is there.",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.download", description="Download a model, verified.")
    parser.add_argument("model", help="ModelScope id, for example Qwen/Qwen3-0.6B")
    parser.add_argument("--revision", default="master", help="branch, tag or commit")
    parser.add_argument("--folder", help="where to put it (default: ModelScope's cache)")
    options = parser.parse_args(arguments)
    try:
        print(download(options.model, options.revision, options.folder))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(say("已中断，再运行一次会接着下载。", "Interrupted: run it again to go on."), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
