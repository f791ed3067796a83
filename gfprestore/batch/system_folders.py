"""System and trash folders of network storage, desktops and phones: thumbnails, deleted files and old versions."""

from __future__ import annotations

from gfprestore.batch.names import folded_name

_NAMES = (
    # Network storage: Synology, QNAP, ASUSTOR, Western Digital, TerraMaster, Buffalo, NetApp; Samba's recycle bin
    "@eaDir", "#recycle", "#snapshot", "@tmp", "@sharesnap", "@Recycle", "@Recently-Snapshot", "@__thumb", ".@__thumb",
    ".@upload_cache", ".@#local", "@sharebin", ".wdmc", ".wdphotos", ".twonkymedia", "trashbox", "Network Recycle Bin",
    ".recycle", ".snapshot", ".snapshots", "~snapshot", ".zfs",
    # Windows
    "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "$WINDOWS.~BT", "Config.Msi",
    # macOS, and what its archives and network volumes leave behind
    ".Trash", ".Trashes", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".DocumentRevisions-V100",
    ".MobileBackups", ".AppleDouble", ".AppleDB", ".AppleDesktop", "Network Trash Folder", "Temporary Items",
    "__MACOSX",
    # Linux desktops
    "lost+found", ".thumbnails", ".sh_thumbnails", ".xvpics",
    # Phones and cameras
    ".thumbs", ".trashed", ".globalTrash", ".Trash-Gallery",
    # Photo managers and programs that synchronize
    ".dtrash", ".picasaoriginals", ".stversions", ".SyncArchive", ".dropbox.cache", ".SynologyWorkingDirectory",
    ".tmp.drivedownload", ".tmp.driveupload", "_gsdata_",
)  # fmt: skip
_FOLDED = frozenset(folded_name(name) for name in _NAMES)
_PREFIXES = (".trash-", "@syno")  # the trash of each user of a volume; packages of Synology


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name holds thumbnails, deleted files or the state of a system."""
    folded = folded_name(name)
    return folded in _FOLDED or folded.startswith(_PREFIXES)
