import pytest
from PIL import Image

from jaxtl.data.decode import ImageError, decode
from jaxtl.data.formats import describe_others, formats, is_image, is_photograph, kind_of_bytes

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


def test_the_usual_formats_come_first():
    assert formats()[:6] == ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    assert "EPS" not in formats()


def test_an_image_is_known_by_its_extension_or_by_how_it_begins(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image", "PNG")
    (tmp_path / "notes").write_text("none")
    assert is_image(tmp_path / "absent.JPG")
    assert is_image(tmp_path / "image")
    assert not is_image(tmp_path / "notes")
    assert is_photograph(tmp_path / "IMG_1.HEIC")
    assert not is_photograph(tmp_path / "notes.txt")


@pytest.mark.parametrize(("brand", "kind"), [(b"heic", "HEIC"), (b"avif", "AVIF"), (b"isom", "")])
def test_heic_and_avif_are_known_by_their_first_bytes(brand, kind):
    found = kind_of_bytes(b"\x00\x00\x00\x18ftyp" + brand)
    assert found.partition(":")[0] == kind
    assert kind_of_bytes(b"Buy milk and bread") == ""


@pytest.mark.skipif("HEIF" in formats(), reason="pillow-heif is installed")
def test_a_file_that_is_heic_whatever_its_name_says_what_reads_it():
    with pytest.raises(ImageError, match=r"^photo.jpg is HEIC: pip install 'jaxtl\[heif\]'$"):
        decode(HEIC, "photo.jpg")


@pytest.mark.skipif("HEIF" not in formats(), reason="pillow-heif is not installed")
def test_heic_is_read(tmp_path):
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "photo.heic")
    image = decode((tmp_path / "photo.heic").read_bytes())
    assert image.size == (64, 48)
    assert image.getpixel((30, 20)) == pytest.approx((200, 30, 30), abs=4)


def test_avif_is_read_where_pillow_has_it(tmp_path):
    if "AVIF" not in formats():
        pytest.skip("this Pillow is built without AVIF")
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "photo.avif")
    assert is_image(tmp_path / "photo.avif")
    assert decode((tmp_path / "photo.avif").read_bytes()).getpixel((30, 20)) == pytest.approx((200, 30, 30), abs=4)


def test_files_that_are_not_read_are_counted_by_kind():
    names = ["a/1.heic", "a/2.HEIF", "a/x.txt", "b/README", "b/x.CR2", *(f"c/{i}.csv" for i in range(12))]
    assert describe_others(names, shown=3) == (
        "2 HEIC (a/1.heic, a/2.HEIF): pip install 'jaxtl[heif]'; 1 .txt (a/x.txt); 1 without extension (b/README); "
        "1 a camera's raw file (b/x.CR2): save it as JPEG or PNG; 12 .csv (c/0.csv, c/1.csv, c/2.csv and 9 more)"
    )
