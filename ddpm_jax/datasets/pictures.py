"""Image files opened with care: formats by name, sizes from the header before a pixel is decoded."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")  # never those whose readers run programs, like EPS


def open_image(path: Path, most: tuple[int, int]) -> "Image":
    """The decoded image at `path`, at most `most` = (height, width) pixels.

    Raises ValueError, naming the file, if it is larger (before it is decoded) or is no whole image.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(f"{path} is far larger than {most[0]}x{most[1]} pixels") from error
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"{path} is not an image ({', '.join(FORMATS)})") from error
    with image:
        width, height = image.size
        if height > most[0] or width > most[1]:
            raise ValueError(f"{path} is {height}x{width} (height x width), more than {most[0]}x{most[1]}")
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is a broken image ({error})") from error
    return image
