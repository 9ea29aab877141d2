"""The page in a real browser."""

from __future__ import annotations

import pytest

from cellkit.reports import render_html

WIDTHS = (1280, 400)
NAMES = ("evaluation", "large_evaluation", "bare_evaluation", "empty_evaluation")

TEXTS_OUTSIDE = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1;
  }).map(text => text.textContent);
})
"""
TEXTS_TOUCHING = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([first, a], i) => texts.slice(i + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
    .map(([second]) => `${svg.ariaLabel}: ${first} / ${second}`));
})
"""


@pytest.fixture(params=NAMES)
def path(request, tmp_path):
    """A page as a file."""
    target = tmp_path / "a report.html"
    target.write_text(render_html(request.getfixturevalue(request.param)), encoding="utf-8")
    return target


@pytest.fixture
def full_page(evaluation, tmp_path):
    """The page with everything on it, as a file."""
    target = tmp_path / "report.html"
    target.write_text(render_html(evaluation), encoding="utf-8")
    return target


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_loads_alone_and_fits(browser, path, width, dark):
    browser.load(path, width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    assert browser.evaluate(TEXTS_OUTSIDE) == []
    assert browser.evaluate(TEXTS_TOUCHING) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_and_charts_are_seen(browser, full_page, evaluation, width):
    browser.load(full_page, width)
    pictures = browser.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(pictures) == 2 * len(evaluation.examples)
    assert all(complete and natural > 0 and shown > 200 for complete, natural, shown in pictures)
    charts = browser.evaluate("[...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.clientHeight])")
    assert len(charts) == 6
    assert all(wide > 250 and high > 180 for wide, high in charts)


def test_a_picture_shows_its_colours(browser, full_page):
    browser.load(full_page, 1280)
    count = browser.evaluate(
        """
        (() => {
          const picture = document.querySelector("img.drawn");
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
          const context = canvas.getContext("2d");
          context.drawImage(picture, 0, 0);
          const levels = context.getImageData(0, 0, canvas.width, canvas.height).data;
          let found = 0;
          for (let i = 0; i < levels.length; i += 4)
            found += levels[i] === 255 && levels[i + 1] === 176 && levels[i + 2] === 0;
          return found;
        })()
        """
    )
    assert count > 100  # pixels of predicted outlines


def test_hostile_names_do_nothing(browser, full_page):
    browser.load(full_page, 1280)
    assert browser.evaluate("typeof window.hostile") == "undefined"
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.named("Page.javascriptDialogOpening") == []
    assert browser.evaluate("document.querySelectorAll('[onerror], [onload], [onclick]').length") == 0
    assert "<script>window.hostile" in browser.evaluate("document.querySelector('h1').textContent")


def test_the_policy_is_in_force(browser, full_page):
    browser.load(full_page, 1280)
    blocked = browser.evaluate(
        """
        new Promise(done => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", event => {
            seen.push(event.effectiveDirective);
            if (seen.length === 2) done(seen.sort());
          });
          const script = document.createElement("script");
          script.textContent = "window.hostile = 3";
          document.body.append(script);
          new Image().src = "http://127.0.0.1:9/x.png";
        })
        """
    )
    assert blocked == ["img-src", "script-src-elem"]
    assert browser.evaluate("typeof window.hostile") == "undefined"


FIRST_COLUMN = "[...document.querySelectorAll('[aria-label=Images] tbody tr')].map(r => r.cells[{}].textContent)"
CLICK = "[...document.querySelectorAll('[aria-label=Images] th button')].find(b => b.textContent === '{}').click()"


def test_heads_sort_their_column(browser, full_page):
    browser.load(full_page, 1280)
    browser.evaluate(CLICK.format("n_true"))
    ascending = [int(text) for text in browser.evaluate(FIRST_COLUMN.format(1))]
    assert ascending == sorted(ascending)
    assert len(set(ascending)) > 1
    browser.evaluate(CLICK.format("n_true"))
    assert [int(text) for text in browser.evaluate(FIRST_COLUMN.format(1))] == ascending[::-1]
    browser.evaluate(CLICK.format("image"))
    names = browser.evaluate(FIRST_COLUMN.format(0))
    assert names[1:] == sorted(names[1:])
    assert browser.evaluate("document.querySelectorAll('[aria-label=Images] th[aria-sort]').length") == 1


def test_a_picture_can_be_enlarged_and_seen_without_lines(browser, full_page):
    browser.load(full_page, 1280)
    width = "document.querySelector('img.drawn').getBoundingClientRect().width"
    before = browser.evaluate(width)
    browser.evaluate("document.querySelector('button.picture').click()")
    assert browser.evaluate(width) > 1.8 * before
    shown = "getComputedStyle(document.querySelector('img.drawn')).visibility"
    assert browser.evaluate(shown) == "visible"
    browser.evaluate("document.querySelector('.toggle input').click()")
    assert browser.evaluate(shown) == "hidden"
    assert browser.evaluate("getComputedStyle(document.querySelector('img.plain')).visibility") == "visible"


def test_dark_rooms_get_a_dark_page(browser, full_page):
    colour = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    browser.load(full_page, 1280)
    assert min(browser.evaluate(colour)) > 240
    browser.load(full_page, 1280, dark=True)
    assert max(browser.evaluate(colour)) < 40


def test_printed_tables_are_whole(browser, full_page):
    browser.load(full_page, 720)  # A4 less its margins
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 720
    heights = browser.evaluate("[...document.querySelectorAll('.scroll')].map(s => [s.scrollHeight, s.clientHeight])")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert all(whole <= shown for whole, shown in heights)


def test_a_screenshot_is_a_picture(browser, full_page):
    browser.load(full_page, 400)
    assert browser.screenshot().startswith(b"\x89PNG")


def test_without_a_browser_tests_are_skipped_but_fail_where_one_is_required(driver, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CELLKIT_BROWSER", raising=False)
    assert driver.find_browser() is None
    monkeypatch.delenv("CELLKIT_BROWSER_TESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        driver.absence()
    monkeypatch.setenv("CELLKIT_BROWSER_TESTS", "required")
    with pytest.raises(pytest.fail.Exception, match="no browser found"):
        driver.absence()
