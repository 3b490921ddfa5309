#!/usr/bin/env python3
"""
A corpus of real English from Debian packages with free licences: novels, game stories, essays, commentary, encyclopaedic and technical prose.

    scripts/smollm2-corpus.py --out FOLDER [--work FOLDER] [--eval 0.05] [--train 0.35] [--seed 0] [--show N]

Writes, for nla-extract, warm.jsonl.gz (warm start), train.jsonl.gz (RL), eval.jsonl.gz (held out) and manifest.json (package,
version, licence, documents, passages and bytes of every source). --show prints N random passages. Needs apt-get, dpkg-deb and
package lists (apt-get update); nothing is installed: packages are downloaded into --work (715 MB) and read there. The same
package versions and seed give the same bytes. About three minutes.

A line is a passage of 40 to 200 words, whole paragraphs as far as possible, of one source document: a chapter, an article, a
mission, a dictionary entry. `doc_id` names the document, not the passage, and the three files share no document: so every split
by doc_id that a program makes later keeps a chapter together. (nla-extract draws positions by doc_id: passages of one
document get the same relative position. Over thousands of documents that evens out.)

Left out, by plain counts of characters and words: what is not prose (code, tables, lists of names), what is not English, paragraphs
that occur twice anywhere (licences, navigation, boilerplate).
"""
import argparse
import collections
import gzip
import hashlib
import html.parser
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import zlib

MIN_WORDS, FULL_WORDS, MAX_WORDS = 40, 90, 200


# ------------------------------------------------------------------------------- readers: a file's bytes -> (document, [paragraph])

def text_of(data):
    return data.decode("utf-8", "replace") if b"\0" not in data[:4096] else ""


def unpacked(path, data):
    return gzip.decompress(data) if path.endswith((".gz", ".dz")) else data


def blocks(text):
    """Paragraphs between blank lines, their lines joined."""
    return [" ".join(p.split()) for p in re.split(r"\n[ \t\r]*\n", text) if p.strip()]


def chapters(text, name, heading):
    """A book in plain text: a document a chapter; emphasis by _underscores_ is taken off."""
    text = text.replace("\r\n", "\n")
    start, end = re.search(r"\*\*\* ?START OF[^\n]*", text), re.search(r"\*\*\* ?END OF", text)     # Project Gutenberg's frame
    text = text[start.end() if start else 0:end.start() if end else len(text)]
    for number, part in enumerate(re.split(heading, text)):
        yield f"{name}/{number}", [re.sub(r"\b_|_\b", "", p) for p in blocks(part)]


def r_strings(data):
    """The texts of an R package's Rdata.rdb: zlib blocks of serialised character vectors, one a data set."""
    at = 0
    while at < len(data):
        unpack = zlib.decompressobj()
        block = unpack.decompress(data[at + 4:])                        # behind the length in 4 bytes
        at = len(data) - len(unpack.unused_data)
        lines, position = [], block.index(b"UTF-8") + 5                 # the end of the header
        for match in iter(lambda: re.compile(rb"\0[\0\4][\0\x80]\x09(....)", re.S).search(block, position), None):
            size = struct.unpack(">I", match.group(1))[0]
            position = match.end() + size
            lines.append(block[match.end():position].decode("utf-8"))
        yield "\n".join(lines)


def read_austen(path, data):
    for text in r_strings(data):
        title = text.strip().split("\n")[0].title()
        yield from chapters(text, title, r"\n(?:CHAPTER|Chapter) [IVXLC\d]+\.?")


def read_moby_dick(path, data):
    for text in r_strings(data):
        yield from chapters(text, "Moby Dick", r"\n\s*CHAPTER \d+\.? ")


def read_opticks(path, data):
    yield from chapters(text_of(data), "Opticks", r"\n(?:_?PROP\. |_?OBS\. |_?Obs\. |_?DEFIN|_?AX\. |_?Qu\. )")


class Html(html.parser.HTMLParser):
    """Paragraphs of HTML, Mallard or DocBook: text between block elements, without what is not prose."""
    INLINE = set("a abbr acronym application b bold big cite code em emphasis font gui guibutton guilabel guimenu guimenuitem i input "
                 "key keycap keyseq link literal menuchoice quote q s small span strong sub sup tt u ulink var xref".split())
    SKIP = set("pre script style table nav screen programlisting figure figcaption title info comment head footer h1 h2 h3 h4 h5 h6 "
               "dt note reference milestone".split())
    VOID = set("area base br col embed hr img input link meta param source track wbr".split())

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.words, self.skipping = [], [], []

    def cut(self):
        paragraph = " ".join("".join(self.words).split())
        self.words = []
        if paragraph:
            self.paragraphs.append(paragraph)

    def handle_starttag(self, tag, attributes):
        if tag in self.SKIP and not self.skipping and tag not in self.VOID:
            self.cut()
            self.skipping.append(tag)
        elif self.skipping and tag == self.skipping[0]:
            self.skipping.append(tag)
        elif tag not in self.INLINE or tag == "br":
            self.cut() if tag != "br" else self.words.append(" ")

    def handle_startendtag(self, tag, attributes):
        if tag not in self.INLINE and not self.skipping:
            self.words.append(" ") if tag == "br" else self.cut()

    def handle_endtag(self, tag):
        if self.skipping:
            if tag == self.skipping[0]:
                self.skipping.pop()
        elif tag not in self.INLINE:
            self.cut()

    def handle_data(self, text):
        if not self.skipping:
            self.words.append(text)


def html_paragraphs(text):
    parser = Html()
    parser.feed(text)
    parser.close()
    parser.cut()
    return parser.paragraphs


def read_html(path, data):
    text = text_of(data)
    body = re.search(r'(?s)<div[^>]*(?:role="main"|id="page-content")[^>]*>.*', text)
    yield path.rsplit("/", 1)[1], html_paragraphs(body.group() if body else text)


def read_folder_html(path, data):
    """Files that are all called the same: the folder names the document."""
    yield path.rsplit("/", 2)[1], html_paragraphs(text_of(data))


def read_markdown(path, data):
    text = re.sub(r"\*\*|(?<!\w)_|_(?!\w)", "", text_of(unpacked(path, data)))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|^#.*$", r"\1", text, flags=re.M)
    for number, part in enumerate(re.split(r"\n(?=\* \* \*)", text)):
        paragraphs = [re.sub(r"\s+([,.;:)\]])", r"\1", p) for p in blocks(part) if not p.startswith(("* ", "#"))]
        # sections of one page are one document
        yield path.rsplit("/", 1)[1].split(".")[0], [p for p in paragraphs if number or p]


def read_pod(path, data):
    text = re.sub(r"(?ms)^=(?:begin|for)\b.*?^=(?:end|cut)\b", "", text_of(data))
    for _ in range(3):
        text = re.sub(r"[A-Z]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", text)
    yield path.rsplit("/", 1)[1], [" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p[:1].strip() and p[:1] != "="]


def read_cfg(path, data):
    """Wesnoth: the story told and what is said, in a scenario's order; the values are _ "..." with doubled quotes."""
    text = re.sub(r"(?m)^\s*#.*$", "", text_of(data))
    said = re.findall(r'(?:story|message|description)\s*=\s*_\s*"((?:[^"]|"")*)"', text)
    said = [re.sub(r"<[^>]*>|&[a-z]+;", "", s.replace('""', '"')) for s in said]
    yield "/".join(path.split("/")[-3::2]), [" ".join(s.split()) for s in said if "$" not in s and "|" not in s]


def read_endless(path, data):
    """Endless Sky: what a mission or a planet's description tells; the player's choices of answers are left out."""
    names = {"<first>": "Alex", "<last>": "Carter", "<ship>": "Kestrel", "<planet>": "the port", "<system>": "that system",
             "<origin>": "the spaceport", "<destination>": "the other port", "<stopovers>": "the stops on the way"}
    document, paragraphs, choice = None, [], None
    for line in text_of(data).split("\n"):
        indent = len(line) - len(line.lstrip("\t"))
        if line[:1].strip() and line[:1] != "#":
            if document:
                yield document, paragraphs
            document, paragraphs, choice = path.rsplit("/", 1)[1] + "/" + line.replace('"', ""), [], None
        if choice is not None and line.strip() and indent <= choice:
            choice = None
        if line.strip() == "choice":
            choice = indent
        told = re.search(r"`\t?(.*)`\s*$", line)
        if document and told and choice is None:
            words = told.group(1).strip()
            for name, value in names.items():
                words = words.replace(name, value)
            paragraphs.append(words if "<" not in words else "")
    if document:
        yield document, paragraphs


def read_crawl(path, data):
    for entry in re.split(r"(?m)^%%%%\n", re.sub(r"(?m)^#.*\n", "", text_of(data))):
        key, _, body = entry.partition("\n")
        if "{{" not in body:
            yield path.rsplit("/", 1)[1] + "/" + key, blocks(body)


def read_dict(path, data):
    """A dictd database: entries start in the first column. FOLDOC's cross references, subject marks and dates go."""
    for entry in re.split(r"\n(?=\S)", text_of(unpacked(path, data))):
        head, _, body = entry.partition("\n")
        body = re.sub(r"\{([^{}]*)\}", r"\1", body.replace("{{", "{").replace("}}", "}"))
        body = re.sub(r"(?s)\(\d{4}-\d\d-\d\d\)|<[^<>]*>|\(?\b(?:https?|ftp|news):\S+|\[[^\]]*\d{4}[^\]]*\]|__", "", body)
        paragraphs = [re.sub(r"^\d+\. ", "", p) for p in blocks(body)]
        if paragraphs and len(head) < 60:
            paragraphs[0] = head + ": " + paragraphs[0]
        yield head, paragraphs


def read_devil(path, data):
    yield from ((p.split(",")[0], [re.sub(r"\{([^{}]*)\}", r"\1", p)]) for p in blocks(text_of(unpacked(path, data))))


def read_jargon(path, data):
    for entry in re.split(r"\n(?=   :[^\n]{1,60}: )", text_of(unpacked(path, data))):
        yield entry.strip().split(":")[1] if ":" in entry else "front", \
            [re.sub(r"\{([^{}]*)\}", r"\1", re.sub(r"^:([^:]+):", r"\1:", p)) for p in blocks(entry)]


def read_fortunes(path, data):
    for number, entry in enumerate(re.split(r"\n%\n", text_of(data))):
        yield f"{path.rsplit('/', 1)[1]}/{number}", blocks(re.sub(r"(?m)^\s*--.*$", "", entry))


def sword_books(index, blob):
    """A SWORD module: one zlib block a book, [offset, size, size unpacked] each in the index."""
    for offset, size, _ in struct.iter_unpack("<III", index):
        yield zlib.decompress(blob[offset:offset + size]).decode("utf-8")


def read_sword(path, files):
    for testament in ("ot", "nt"):
        get = [next(d for p, d in files.items() if p.endswith(f"/{testament}.{x}")) for x in ("bzs", "bzz")]
        for book in sword_books(*get):
            for chapter in re.split(r'<chapter (?=[^>]*sID=)', book)[1:]:
                chapter = "<chapter " + re.sub(r"(?s)<title[^>]*>.*?</title>|<note[^>]*>.*?</note>", "", chapter)
                chapter = re.sub(r"</?(?:lg|l|w|divineName|transChange|q|hi|seg|reference)\b[^>]*>", " ", chapter)
                name = re.search(r'osisID="([^"]*)"', chapter).group(1)
                paragraphs = [" ".join(p.split()) for p in re.split(r"<[^>]*>", chapter)]
                yield name, [re.sub(r" ([,.;:!?’”])", r"\1", p).replace("“ ", "“").replace("‘ ", "‘") for p in paragraphs]


# ---------------------------------------------------------------------------------------------------------------- sources

Source = collections.namedtuple("Source", "name package files read licence kilobytes")  # at most so much text; 0: all of it
GAMES = "/games/wesnoth/1.16/data/campaigns/[^/]*/(scenarios|_main).*cfg$"
SOURCES = [
    Source("novels: Jane Austen", "r-cran-janeaustenr", r"Rdata\.rdb$", read_austen, "public domain (package: MIT)", 0),
    Source("novel: Moby Dick", "r-cran-tokenizers", r"Rdata\.rdb$", read_moby_dick, "public domain (package: MIT)", 0),
    Source("science: Newton's Opticks", "golang-1.19-src", r"src/testdata/Isaac.*\.txt$", read_opticks, "public domain", 0),
    *(Source("game stories: Wesnoth", f"wesnoth-1.16-{campaign}", GAMES, read_cfg, "GPL-2+", 0)
      for campaign in "did dm dw ei httt l low nr sof sota sotbe thot tsg".split()),
    Source("game stories: Endless Sky", "endless-sky-data", r"/data/.*\.txt$", read_endless, "GPL-3+", 0),
    Source("game lore: Dungeon Crawl", "crawl-common",
           r"descript/(monsters|gods|items|branches|species|unrand|backgrounds|features|spells|cards|hints|skills|mutations)\.txt$",
           read_crawl, "GPL-2+", 0),
    Source("astronomy and myth: Stellarium", "stellarium-data", r"description\.en\.utf8$", read_folder_html, "GPL-2+", 0),
    Source("essays: An Anarchist FAQ", "anarchism", r"markdown/(sec|append).*\.md\.gz$", read_markdown, "GPL-2", 2500),
    Source("satire: The Devil's Dictionary", "dict-devil", r"devil\.dict\.dz$", read_devil, "public domain", 0),
    Source("lexicon: The Jargon File", "jargon-text", r"jargon\.txt\.gz$", read_jargon, "public domain", 0),
    Source("encyclopaedia: FOLDOC", "dict-foldoc", r"foldoc\.dict\.dz$", read_dict, "GFDL-1.1+", 2500),
    Source("quotations: fortunes", "fortunes",
           r"fortunes/(art|cookie|definitions|education|food|humorists|kids|law|love|medicine|miscellaneous|news|people|pets|platitudes|"
           r"politics|science|songs-poems|sports|tao|wisdom|work)$", read_fortunes, "BSD", 0),
    Source("scripture: World English Bible", "sword-text-web", r"\.bz[sz]$", read_sword, "public domain", 1500),
    Source("commentary: Matthew Henry", "sword-comm-mhcc", r"\.bz[sz]$", read_sword, "public domain", 1500),
    Source("history: Debian", "debian-history", r"docs/.*\.en\.html$", read_html, "GPL-2+", 0),
    Source("handbook: Debian administrator", "debian-handbook", r"en-US/[^/]*\.html$", read_html, "GPL-2+ or CC-BY-SA-3.0", 800),
    Source("guide: GnuCash and money", "gnucash-docs", r"help/C/gnucash-guide/.*\.xml$", read_html, "GFDL-1.1+", 0),
    Source("guide: GIMP and pictures", "gimp-help-en", r"help/en/.*\.html$", read_html, "GFDL-1.2+", 800),
    Source("guide: GNOME", "gnome-user-docs", r"help/C/.*\.page$", read_html, "CC-BY-SA-3.0", 600),
    Source("manual: Apache httpd", "apache2-doc", r"manual/en/.*\.html$", read_html, "Apache-2.0", 600),
    Source("manual: Python", "python3.11-doc", r"html/(tutorial|howto|faq|whatsnew|using|reference)/.*\.html$", read_html, "PSF-2", 800),
    Source("manual: Perl", "perl-doc", r"pod/perl.*\.pod$", read_pod, "GPL-1+ or Artistic", 800),
]


def download(package, work):
    """The package's file: the one in work, else from the archive. Its name holds the version."""
    found = sorted(work.glob(f"{package}_*.deb"))
    if not found:
        done = subprocess.run(["apt-get", "download", "-q", package], cwd=work, capture_output=True, text=True)
        found = sorted(work.glob(f"{package}_*.deb"))
        if done.returncode or not found:
            error = [x for x in done.stderr.splitlines() if x.startswith("E:")] or ["no message"]
            sys.exit(f"smollm2-corpus: error: apt-get cannot download {package}: {error[0]} (the packages are those of Debian 12; is apt-get update needed?)")
    return found[-1]


def files_of(deb, pattern):
    """{path: bytes} of the package's files that match."""
    wanted = re.compile(pattern)
    found = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpack:
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
            for member in tar:
                if member.isfile() and wanted.search(member.name):
                    found[member.name] = tar.extractfile(member).read()
        unpack.stdout.read()                                            # what tar leaves after its end
    return found


# --------------------------------------------------------------------------------------------------------- what is prose

COMMON = set("""the of and to a in is that it was for on with as be by he his i this you are not have at from but they or had which
an all were we their her she one there been if more when will would so no out up into them than can who what its him my do then about
these some other only your may such any our over also how after me us very before must could now has made own did upon said where
because through those while each much too just against same should shall most like even being between under never many""".split())


def clean(paragraph):
    paragraph = paragraph.replace("\ufeff", "").replace("\u00a0", " ").replace("\u00ad", "").replace("``", '"').replace("''", '"')
    paragraph = re.sub(r"[\u200b-\u200f\u2060\ufffd]|\(\?\)", "", paragraph)
    return re.sub(r"\s+([,.;:!?)])(?=\s|$)", r"\1", " ".join(paragraph.split()))


def is_sentence(paragraph):
    return len(paragraph.split()) >= 4 and paragraph.rstrip("\"'”’)*")[-1:] in ".!?:…-—;,"


def is_prose(passage):
    """English sentences: common words make up a third of them, letters and spaces nearly all characters."""
    words = re.findall(r"[A-Za-z']+", passage)
    letters = sum(map(str.isalpha, passage))
    return (len(words) >= MIN_WORDS and 3.3 <= sum(map(len, words)) / len(words) <= 6.2
            and sum(w.lower() in COMMON for w in words) >= 0.33 * len(words)
            and letters + passage.count(" ") >= 0.92 * len(passage)
            and sum(c.isalpha() and not c.isascii() for c in passage) <= 0.02 * letters
            and sum(map(str.isupper, passage)) <= 0.09 * letters
            and sum(map(str.isdigit, passage)) <= 0.02 * len(passage)
            and sum(passage.count(c) for c in "{}<>|=\\~^#@$%&*+_/[]") <= 0.006 * len(passage)
            and not re.search(r"https?:|www\.|\S{30}|[\u0370-\uffff](?<![\u2010-\u2026])|\bCopyright\b|\bLicense\b", passage))


def sentences(paragraph):
    return re.split(r"(?<=[.!?])[\"'”’)]* +(?=[\"'“‘(]*[A-Z])", paragraph) if len(paragraph.split()) > MAX_WORDS else [paragraph]


def passages(paragraphs):
    """Whole paragraphs together until FULL_WORDS are reached; one that is too long by itself is cut between sentences."""
    now, n = [], 0
    for paragraph in paragraphs:
        for i, piece in enumerate(sentences(paragraph)):
            size = len(piece.split())
            if now and (n >= FULL_WORDS or n + size > MAX_WORDS):
                yield "".join(now)
                now, n = [], 0
            now.append((" " if i else "\n") * bool(now) + piece)
            n += size
    if now:
        yield "".join(now)


def key(*words):
    return hashlib.sha256("\0".join(map(str, words)).encode()).digest()


def documents(source, deb):
    """{document: [passage]} of one package."""
    files = files_of(deb, source.files)
    if not files:
        sys.exit(f"smollm2-corpus: error: '{deb.name}' holds no file like '{source.files}'")
    reads = [source.read(None, files)] if source.read is read_sword else [source.read(p, files[p]) for p in sorted(files)]
    found = {}
    for document, paragraphs in (pair for read in reads for pair in read):
        found.setdefault(f"{source.package}/{document}", []).extend(filter(is_sentence, map(clean, paragraphs)))
    return found


def collect(work, seed):
    """[(source, document, passage)], and the manifest's rows."""
    seen, out, rows = set(), [], []
    for source in SOURCES:
        deb = download(source.package, work)
        kept = n_documents = n_passages = 0
        found = documents(source, deb)
        for document in sorted(found, key=lambda d: key(seed, d)):
            fresh = [p for p in found[document] if len(p) < 40 or key(p) not in seen and not seen.add(key(p))]
            good = [p for p in passages(fresh) if len(p.split()) <= 1.25 * MAX_WORDS and is_prose(p)]
            if source.kilobytes and kept >= 1000 * source.kilobytes:
                break
            out += [(source, document, p) for p in good]
            kept += sum(len(p.encode()) for p in good)
            n_documents += bool(good)
            n_passages += len(good)
        rows.append({"source": source.name, "package": source.package, "version": deb.name.split("_")[1].replace("%3a", ":"),
                     "licence": source.licence, "documents": n_documents, "passages": n_passages, "bytes": kept})
        print(f"smollm2-corpus: {source.name:34s} {source.package:20s} {n_documents:6d} documents {n_passages:6d} passages "
              f"{kept / 1e6:6.2f} MB", file=sys.stderr)
    return out, rows


def write(file, lines):
    with open(f"{file}.part", "wb") as f, gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
        for source, document, passage in lines:
            z.write(json.dumps({"doc_id": document, "source": source.name, "text": passage}, ensure_ascii=False).encode() + b"\n")
    os.replace(f"{file}.part", file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, help="default: OUT/packages")
    parser.add_argument("--eval", type=float, default=0.05, help="fraction of the documents that is held out")
    parser.add_argument("--train", type=float, default=0.35, help="fraction for RL; the rest is for the warm start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0)
    args = parser.parse_args()
    if not (args.eval > 0 and args.train > 0 and args.eval + args.train < 1):
        parser.error("--eval and --train are above 0 and together below 1")
    work = args.work or args.out / "packages"
    for folder in (args.out, work):
        folder.mkdir(parents=True, exist_ok=True)
    everything, rows = collect(work, args.seed)
    random.Random(args.seed).shuffle(everything)
    splits = {"eval": [], "train": [], "warm": []}
    for line in everything:
        uniform = int.from_bytes(key(args.seed, "split", line[1])[:8], "big") / 2**64
        splits["eval" if uniform < args.eval else "train" if uniform < args.eval + args.train else "warm"].append(line)
    sizes = {}
    for name, lines in splits.items():
        write(args.out / f"{name}.jsonl.gz", lines)
        sizes[name] = {"documents": len({x[1] for x in lines}), "passages": len(lines), "bytes": sum(len(x[2].encode()) for x in lines)}
        print(f"smollm2-corpus: {name}: {sizes[name]}", file=sys.stderr)
    manifest = {"seed": args.seed, "bytes": sum(r["bytes"] for r in rows), "splits": sizes, "sources": rows}
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for source, document, passage in random.Random(args.seed + 1).sample(everything, args.show):
        print(f"--- {document} ({source.name}, {len(passage.split())} words)\n{textwrap.fill(passage, 132)}")


if __name__ == "__main__":
    main()
