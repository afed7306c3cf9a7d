"""Whether all nodes of a cluster read and write one storage, and open one bundle."""

import os
import uuid
from collections.abc import Callable
from typing import TypeVar

from raypurify.bundle.manifest import absolute
from raypurify.cli.doctor.findings import all_well, nodes_text
from raypurify.cli.doctor.nodes import Nodes
from raypurify.cli.doctor.witness import Witness
from raypurify.errors import one_line
from raypurify.storage import redact

Answer = TypeVar("Answer")


def storage(nodes: Nodes, where: str) -> str:
    """That a folder or URI is one for this process and all nodes: each writes a small file there, reads that of this
    process, which reads theirs, and deletes its own. Raises RuntimeError naming the nodes that cannot."""
    where = where if "://" in where else os.path.abspath(os.path.expanduser(where))
    mark, here = f"_raypurify-doctor-{uuid.uuid4().hex}", Witness()
    files = {name: f"{mark}-{k}" for k, name in enumerate(nodes.witnesses)}
    try:
        wrong = _through(nodes, here, where, f"{mark}-here", files)
    finally:
        left = _clean(nodes, here, where, f"{mark}-here", files)
    return all_well(
        wrong + left, f"{redact(where)}: written, read and deleted by {nodes_text(len(files))} and from here"
    )


def _through(nodes: Nodes, here: Witness, where: str, own: str, files: dict[str, str]) -> list[str]:
    """What is wrong with the way of the ``files`` through a storage, which each node writes, and of this process's
    ``own``."""
    _here("write", where, lambda: here.write(where, own))
    written, unwritten = nodes.ask(lambda one, name: one.write.remote(where, files[name]))
    lost, unread = nodes.ask(lambda one, _: one.missing.remote(where, [own]))
    lost_here = _here("read", where, lambda: here.missing(where, [files[name] for name in written]))
    wrong = _told("write", where, unwritten) + _told(
        "read", where, {n: unread[n] for n in unread if n not in unwritten}
    )
    if apart := [name for name in files if lost.get(name) or files[name] in lost_here]:
        wrong.append(
            f"{redact(where)} is not shared, {', '.join(apart)} and this process do not see what the other writes: "
            "mount one folder there on all nodes, or give a URI, e.g. s3://bucket/run"
        )
    return wrong


def _clean(nodes: Nodes, here: Witness, where: str, own: str, files: dict[str, str]) -> list[str]:
    """What is wrong with deleting what was written."""
    _, wrong = nodes.ask(lambda one, name: one.delete.remote(where, [files[name]]))
    try:
        here.delete(where, [own, *files.values()])
    except Exception as error:  # of any file system
        wrong["this process"] = one_line(error)
    return _told("delete files in", where, wrong)


def _told(what: str, where: str, wrong: dict[str, str]) -> list[str]:
    return [
        f"{name} cannot {what} {redact(where)} ({why}): give Ray's processes there the rights and credentials"
        for name, why in wrong.items()
    ]


def _here(what: str, where: str, act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except Exception as error:  # of any file system
        raise RuntimeError(*_told(what, where, {"this process": one_line(error)})) from error


def bundle(nodes: Nodes, where: str) -> str:
    """That a bundle opens here and on every node, every file of it as its manifest says, and is one and the same.
    Raises RuntimeError naming the nodes on which not, BundleError where it does not open here."""
    where = absolute(where)
    digest, shown = Witness().digest(where), redact(where)
    found, wrong = nodes.ask(lambda one, _: one.digest.remote(where))
    faults = [f"{name} cannot open it: {why}" for name, why in wrong.items()]
    if other := [f"{name} has another, {theirs[:12]}…" for name, theirs in found.items() if theirs != digest]:
        faults.append(f"{', '.join(other)}, not {digest[:12]}… as here: copy one {shown} to all nodes, or give a URI")
    return all_well(faults, f"{shown} {digest[:12]}…, the same on {nodes_text(len(found))}")
