"""Open every page of the built documentation in a browser and list what is wrong.

    python .ci/check_pages.py docs/_build/html

It needs selenium, and chromium and chromedriver on the PATH. On a desktop and a phone,
no page may scroll sideways or be cut off, miss an image, log an error or a warning, or
ask another host for anything. Links between pages lead to pages and anchors that exist.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urldefrag

from selenium import webdriver

WIDTHS = {"desktop": 1300, "phone": 390}  # pixels

SCAN = """
const done = arguments[arguments.length - 1];
const root = document.documentElement;

// The boxes around the title hold the page: if one of them scrolls, the page does.
const pageBoxes = new Set();
for (let box = document.querySelector("h1"); box; box = box.parentElement)
    pageBoxes.add(box);

const styles = new Map();
function style(box) {
    if (!styles.has(box)) styles.set(box, getComputedStyle(box));
    return styles.get(box);
}
// The boxes that may cut off what is in an element: all up to one with a scroll bar of
// its own. What only screen readers find is in a box without a size.
function boxesAround(element) {
    const boxes = [];
    for (let box = element; box !== root; box = box.parentElement) {
        const { overflowX, textOverflow } = style(box);
        if (["auto", "scroll"].includes(overflowX) && !pageBoxes.has(box)) return [];
        if (textOverflow === "ellipsis" || box.offsetWidth === 1) return [];
        if (overflowX !== "visible") boxes.push(box);
    }
    return [...boxes, root];
}
function findCut() {
    const parts = Array.from(document.querySelectorAll("img, svg, table, pre, math"));
    const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (nodes.nextNode()) parts.push(nodes.currentNode);
    return parts.filter(part => {
        const boxes = boxesAround(part.parentElement);
        if (!boxes.length) return false;
        const range = document.createRange();
        range.selectNode(part);
        const isText = part.nodeType === Node.TEXT_NODE;
        const end = (isText ? range : part).getBoundingClientRect().right;
        return boxes.some(box => end > box.getBoundingClientRect().right + 1);
    }).map(part => part.textContent.trim() || part.localName);
}

const images = Array.from(document.images);
images.forEach(image => { image.loading = "eager"; });
Promise.all(
    images.map(image => image.decode().then(() => null, () => image.src))
).then(broken => done({
    excess: Math.max(
        root.scrollWidth - innerWidth,
        ...Array.from(pageBoxes, box => box.scrollWidth - box.clientWidth)
    ),
    cut: findCut(),
    images: broken.filter(Boolean),
    links: Array.from(document.links, link => link.href),
    anchors: Array.from(document.querySelectorAll("[id]"), node => node.id),
}));
"""


class Server(ThreadingHTTPServer):
    """Serve all that a page asks for at once."""

    request_queue_size = 128  # what exceeds the usual 5 waits for seconds


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without a line for each."""

    protocol_version = "HTTP/1.1"  # a page's requests share connections

    def log_message(self, *args):
        """Say nothing."""


def start_browser(folder):
    """Start Chromium so that it keeps to itself: without updates or accounts."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-renderer-backgrounding",  # which on busy cores stands still
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder}",
    ]
    # From a cold disk it may take longer than the driver is ready to wait for it.
    blank = [chromium, *arguments, "--dump-dom", "about:blank"]
    subprocess.run(blank, check=True, capture_output=True)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    return browser


def requested_urls(browser):
    """Give the addresses that a page asked for since the last call."""
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def check_page(browser, url, site):
    """Open a page at every width; return its problems and what the browser found."""
    problems = []
    for device, width in WIDTHS.items():
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            metrics | {"mobile": device == "phone"},
        )
        browser.get(url)
        found = browser.execute_async_script(SCAN)
        if found["excess"] > 0:
            problems.append(f"{device}: {found['excess']} pixels too wide")
        problems += [f"{device}: cut off: {part!r}" for part in found["cut"]]
        problems += [f"{device}: broken image {image}" for image in found["images"]]
        problems += [
            f"{device}: {entry['message']}"
            for entry in browser.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        problems += [
            f"{device}: request to {request}"
            for request in requested_urls(browser)
            if request.startswith(("http", "ws")) and not request.startswith(site)
        ]
    return problems, found


def check_links(pages, site):
    """Find links to what does not exist, from a dict of what pages hold."""
    anchors = {url: set(found["anchors"]) for url, found in pages.items()}
    for url, found in pages.items():
        for link in sorted(set(found["links"])):
            target, fragment = urldefrag(link)
            if not target.startswith(site):
                continue
            target = target.removesuffix("#")
            if target.endswith("/"):
                target += "index.html"
            if target not in anchors:
                if target.endswith(".html"):
                    yield url, f"link to a missing page {link}"
            elif fragment and unquote(fragment) not in anchors[target]:
                yield url, f"link to a missing anchor {link}"


def main(folder):
    """Check the pages below a folder and return how many problems there are."""
    root = Path(folder)
    handler = partial(QuietHandler, directory=folder)
    server = Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}/"
    paths = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.html"))]
    paths = [path for path in paths if not path.startswith("_static/")]
    problems, pages = [], {}
    with tempfile.TemporaryDirectory() as profile:
        browser = start_browser(profile)
        try:
            for path in paths:
                found_problems, pages[site + path] = check_page(
                    browser, site + path, site
                )
                problems += [(site + path, problem) for problem in found_problems]
        finally:
            browser.quit()
    problems += check_links(pages, site)
    for url, problem in problems:
        print(f"{url.removeprefix(site)}: {problem}")
    print(f"{len(paths)} pages, {len(problems)} problems")
    return len(problems)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1])))
