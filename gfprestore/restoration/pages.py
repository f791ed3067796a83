"""Restore a file of several pages, with two pages in memory at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_pages
from gfprestore.photo.writing import check_size, pages_writer

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import PreparedPhoto, Restoration, RestoredPhoto


@dataclass(frozen=True)
class RestoredPage:
    """Result for one page.

    Attributes:
        number: Number of the page, from 1.
        before: The page as it was read.
        finished: Its restored pixels and faces.
        after: The restored page as it was written.
        notes: Notes on data that could not be kept; with the last page also those on the file.
    """

    number: int
    before: Photo
    finished: RestoredPhoto
    after: Photo
    notes: tuple[str, ...]


def restore_pages(
    restoration: Restoration,
    source: Path,
    output: Path,
    *,
    name: str,
    on_progress: Callable[[float], None] | None = None,
    on_complete: Callable[[Path], object] | None = None,
    prepare: Callable[[Photo, str], tuple[Photo, PreparedPhoto]] | None = None,
) -> Iterator[RestoredPage]:
    """Restore all pages of a TIFF and write them as the pages of another; the file appears behind the last page.

    Args:
        restoration: The opened restoration.
        source: The file; never written to.
        output: The output, a TIFF; its folder exists.
        name: Name from which the seeds of the faces are derived.
        on_progress: Called with the finished fraction of all pages, 0 to 1.
        on_complete: See `write_photo`.
        prepare: Returns, for a page and its name, the page as it is to be restored and its faces.

    Raises:
        PhotoError: A page cannot be read, a face cannot be restored, or the output cannot be written.
        DeviceError: The memory is too small for one face or the smallest tile.
    """
    options = restoration.options
    pages = read_pages(source, options.max_pixels, accept_truncated=options.accept_truncated)
    first = next(pages)

    def restored(number: int, page: Photo) -> tuple[Photo, RestoredPhoto, Photo]:
        height, width = page.pixels.shape[:2]
        if not options.aligned:
            check_size(output, *restoration.output_size(width, height), page)

        def progress(share: float) -> None:
            if on_progress is not None:
                on_progress((number - 1 + share) / first.pages)

        own_name = name if number == 1 else f"{name}#{number}"
        if prepare is None:
            prepared = restoration.prepare(restoration.without_hidden_colors(page.pixels, page.alpha), own_name)
        else:
            page, prepared = prepare(page, own_name)
        finished = restoration.finish(prepared, restoration.restore_faces([prepared])[0], progress)
        return page, finished, restoration.with_result(page, finished)

    last: RestoredPage | None = None
    with pages_writer(output, first, on_complete) as writer:
        page: Photo | None = first
        number = 1
        while page is not None:
            before, finished, after = restored(number, page)
            if last is not None:
                yield last
            last = RestoredPage(number, before, finished, after, writer.add(after))
            page, number = next(pages, None), number + 1
    assert last is not None
    yield RestoredPage(last.number, last.before, last.finished, last.after, (*last.notes, *writer.notes))
