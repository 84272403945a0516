"""The web page in Chromium. `make test-page` runs these tests; `make test` does not, because they need a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.daemon.processes import until
from tests.http.servers import http_server

SHOTS = Path(__file__).parents[2] / "docs/images"
DESKTOP: ViewportSize = {"width": 1360, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, from $CHROMIUM or $PATH."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no Chromium is here: install one (Debian: apt-get install chromium), or name it with $CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, ready for use. It must report no error and load nothing from other hosts."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(url) else wrong.append(request.url))
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert [line for line in wrong if "status of 4" not in line] == []


def write(page: Page, code: str) -> None:
    """Replace the program by typing new code."""
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(code)


def run(page: Page, kind: str) -> None:
    """Run the program with the keyboard, and wait for an outcome of this kind."""
    page.keyboard.press("Control+Enter")
    expect(page.locator(f"#outcome.{kind}")).to_be_visible(timeout=15_000)


def new_page(page: Page, url: str) -> Page:
    """Open a URL as another visitor."""
    assert page.context.browser
    other = page.context.browser.new_context(viewport=DESKTOP).new_page()  # type: ignore[union-attr, unused-ignore]
    other.goto(url)
    other.wait_for_selector("html[data-ready]")
    return other


def reload(page: Page) -> None:
    """Reload the page."""
    page.reload()
    page.wait_for_selector("html[data-ready]")


def test_edit_and_run(page: Page) -> None:
    """A typed program runs with its prompt and env, and the tree, the text and the console show its results."""
    page.locator("#prompt").fill("a b")
    page.locator("#env").fill('{"k": [1, 2]}')
    write(page, "console.log('seen', prompt); const result = { words: prompt.split(' '), env };")
    run(page, "ok")
    expect(page.locator("#tree")).to_contain_text("words")
    expect(page.locator("#tree summary").first).to_have_text("{ 2 members }")
    page.get_by_role("radio", name="Text").check()
    expect(page.locator("#text")).to_have_text('{"words":["a","b"],"env":{"k":[1,2]}}')
    expect(page.locator("#console .line")).to_have_text("seen a b")
    expect(page.locator("#cpu-text")).to_contain_text("of 50 ms")


def test_the_line_of_an_exception_is_marked(page: Page) -> None:
    """The editor marks the line that threw, and the excerpt has a caret below the position."""
    write(page, "const a = null;\nconst result = a.b;")
    run(page, "failed")
    expect(page.locator("#outcome")).to_contain_text("TypeError")
    expect(page.locator(".cm-failed-line")).to_have_text("const result = a.b;")
    expect(page.locator("#excerpt")).to_contain_text("^")


def test_the_line_of_a_syntax_error_is_marked(page: Page) -> None:
    """The editor marks the line of a syntax error, after a run and after an attempt to save."""
    write(page, "const a = 1;\nconst b = ;")
    run(page, "failed")
    expect(page.locator("#outcome")).to_contain_text("does not parse")
    expect(page.locator(".cm-failed-line")).to_have_text("const b = ;")
    page.locator("#share").click()
    expect(page.locator("#shared.failed")).to_be_visible()


def test_an_endless_loop_shows_the_limit(page: Page) -> None:
    """The outcome names the limit that was reached, and its bar is full."""
    write(page, "for (;;);")
    run(page, "limit")
    expect(page.locator("#outcome")).to_contain_text("50 ms of CPU time")
    assert page.locator("#cpu").evaluate("meter => meter.value / meter.max") == 1


def test_markup_is_shown_as_text(page: Page) -> None:
    """HTML that a program returns, logs or throws is shown as text: it creates no element and runs no script."""
    attack = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    write(page, f"console.log({attack!r}); return [{attack!r}, {{ {attack!r}: 1 }}]")
    run(page, "ok")
    expect(page.locator("#tree")).to_contain_text("onerror")
    write(page, f"throw new Error({attack!r})")
    run(page, "failed")
    expect(page.locator("#outcome")).to_contain_text("onerror")
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main script").count() == 0


def test_console_during_the_run_and_stop_button(page: Page) -> None:
    """A console line is shown while the program still runs, and the Stop button ends the run."""
    page.get_by_role("radio", name="Deno").check()
    write(page, "console.warn('waiting'); await new Promise((go) => setTimeout(go, 900)); return 1")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#console .warn")).to_have_text("waiting")
    expect(page.locator("#outcome.running")).to_be_visible()
    page.locator("#stop").click()
    expect(page.locator("#outcome.limit")).to_contain_text("You stopped the run")


def test_share_and_open(page: Page, url: str) -> None:
    """A saved program gets a link that opens it, and a second link that includes prompt and env."""
    page.locator("#prompt").fill("a&b=c #é")
    page.locator("#env").fill('{"k": "&"}')
    write(page, "return 'shared by name'")
    page.locator("#name").fill("from-the-page")
    page.locator("#share").click()
    links = page.locator("#shared a")
    expect(links.first).to_have_attribute("href", f"{url}#@from-the-page")
    whole = links.nth(1).get_attribute("href")
    assert whole
    other = new_page(page, whole)
    expect(other.locator(".cm-content")).to_contain_text("shared by name")
    expect(other.locator("#prompt")).to_have_value("a&b=c #é")
    expect(other.locator("#env")).to_have_value('{"k": "&"}')
    other.context.close()
    page.locator("#prompt").fill("x" * 9000)
    page.locator("#share").click()
    expect(page.locator("#shared")).to_contain_text("too long")
    expect(links).to_have_count(1)


def test_a_moved_name_is_reported(page: Page, url: str) -> None:
    """If saving moves a name, the page shows a link to the program that had the name before."""
    for number in (1, 2):
        write(page, f"return 'moves {number}'")
        page.locator("#name").fill("moves-on-the-page")
        page.locator("#share").click()
        expect(page.locator("#shared")).to_contain_text("Stored as")
    page.locator("#shared a").last.click()
    expect(page.locator(".cm-content")).to_contain_text("moves 1")


@pytest.mark.parametrize("reference", ["@nobody", "deadbeefdeadbeef"])
def test_a_link_to_a_missing_program(page: Page, url: str, reference: str) -> None:
    """A link to a program that does not exist shows an error."""
    other = new_page(page, f"{url}#{reference}")
    expect(other.locator("#outcome.failed")).to_contain_text(f"No program {reference[:12]} here")
    other.context.close()


def test_a_draft_survives_a_reload(page: Page, url: str) -> None:
    """A reload restores program, prompt, env and limits, and marks changes to a saved program."""
    write(page, "return 'a draft'")
    page.locator("#prompt").fill("of mine")
    page.locator("#limits summary").click()
    page.locator("#limit-cpu").fill("77")
    reload(page)
    expect(page.locator(".cm-content")).to_contain_text("a draft")
    expect(page.locator("#prompt")).to_have_value("of mine")
    expect(page.locator("#limit-cpu")).to_have_value("77")
    page.locator("#share").click()
    expect(page.locator("#shared")).to_contain_text("Stored as")
    reload(page)
    expect(page.locator("#prompt")).to_have_value("of mine")
    expect(page.locator("#shared")).to_be_hidden()
    write(page, "return 'changed since'")
    reload(page)
    expect(page.locator(".cm-content")).to_contain_text("changed since")
    page.get_by_role("button", name="Open the saved program").click()
    expect(page.locator(".cm-content")).to_contain_text("a draft")


def test_a_draft_has_a_maximum_size(page: Page) -> None:
    """A draft that is too large for the browser's storage is not saved, and the older draft is deleted."""
    write(page, "return 'short'")
    kept = "localStorage.getItem('promptlog.draft')"
    until(lambda: "short" in (page.evaluate(kept) or ""))
    page.locator("#prompt").fill("x" * 600_000)
    until(lambda: page.evaluate(kept) is None)


def test_limits_of_a_run(page: Page) -> None:
    """The limits of the fields apply to the run, the bars show the limits in force, and invalid values are refused."""
    page.locator("#limits summary").click()
    page.locator("#limit-memory").fill("64")
    page.locator("#limit-cpu").fill("1500")
    write(page, "return 1")
    run(page, "ok")
    expect(page.locator("#cpu-text")).to_contain_text("of 1500 ms")
    expect(page.locator("#memory-text")).to_contain_text("of 64 MiB")
    expect(page.locator("#wall-text")).to_contain_text("of 3000 ms")
    for wrong in ("0", "1.5", "-3"):
        page.locator("#limit-cpu").fill(wrong)
        page.locator("#run").click()
        expect(page.locator("#limits-error")).to_be_visible()
        expect(page.locator("#outcome.idle")).to_contain_text("Not run")
        page.locator("#limit-cpu").fill("")
        expect(page.locator("#limits-error")).to_be_hidden()
    page.locator("#limit-cpu").fill("99999999")
    page.locator("#run").click()
    expect(page.locator("#outcome.failed")).to_contain_text("limits.cpu_ms")
    page.locator("#limit-cpu").fill("")
    page.locator("#limit-memory").fill("")
    run(page, "ok")
    expect(page.locator("#cpu-text")).to_contain_text("of 50 ms")


def test_history_stays_in_the_browser(page: Page, url: str) -> None:
    """Earlier runs are listed and can be opened again with their prompts."""
    page.locator("#prompt").fill("remembered")
    write(page, "return prompt + ' run'")
    run(page, "ok")
    write(page, "return 2")
    page.locator("#open-history").click()
    page.get_by_text("return prompt + ' run'").click()
    expect(page.locator(".cm-content")).to_contain_text("prompt + ' run'")
    expect(page.locator("#prompt")).to_have_value("remembered")


def test_typescript_selects_deno(page: Page) -> None:
    """Choosing TypeScript selects Deno, and the program runs."""
    page.get_by_role("radio", name="TypeScript").check()
    expect(page.locator('input[value="deno"]')).to_be_checked()
    write(page, "const n: number = 3; return n")
    run(page, "ok")


def test_every_example_has_its_outcome(page: Page) -> None:
    """Each example runs and ends with the outcome that its title announces."""
    count = page.locator("#examples option").count()
    assert count >= 9
    for index in range(count - 1):
        title = page.locator("#examples option").nth(index + 1).inner_text()
        page.locator("#examples").select_option(str(index))
        kind = "limit" if title.startswith("Limit") else "failed" if "error" in title else "ok"
        page.locator("#run").click()
        expect(page.locator(f"#outcome.{kind}")).to_be_visible(timeout=15_000)


def test_keyboard_navigation(page: Page) -> None:
    """After Escape in the editor, Tab reaches every control that is needed."""
    page.locator(".cm-content").focus()
    page.keyboard.press("Escape")
    reached: list[str] = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    for wanted in ("prompt", "env", "run", "name", "share"):
        assert wanted in reached, reached


def test_an_invalid_env(page: Page) -> None:
    """An invalid env shows an error beside its field, and clears the old result; a valid env removes the error."""
    page.locator("#env").fill("{}")
    write(page, "return 'earlier'")
    run(page, "ok")
    page.locator("#env").fill("[1]")
    page.locator("#run").click()
    expect(page.locator("#env-error")).to_contain_text("JSON object")
    expect(page.locator("#outcome.idle")).to_contain_text("Not run")
    expect(page.locator("#tree")).not_to_contain_text("earlier")
    page.locator("#env").fill("")
    expect(page.locator("#env-error")).to_be_hidden()
    expect(page.locator("#env")).to_have_attribute("aria-invalid", "false")


def test_the_error_is_visible_on_a_phone(browser: Browser, url: str) -> None:
    """After a failed run, a phone's screen shows the message, and the fields above the program take two rows."""
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    page.locator("#examples").select_option("4")
    page.locator("#run").tap()
    expect(page.locator("#outcome.failed")).to_be_visible(timeout=15_000)
    expect(page.locator("#outcome .outcome-title")).to_be_in_viewport(ratio=1)
    expect(page.locator("#outcome .outcome-text")).to_be_in_viewport(ratio=1)
    tops = page.locator(".controls > *").evaluate_all(
        "fields => fields.map((field) => field.getBoundingClientRect().bottom)"
    )
    assert tops[1] == tops[2] > tops[0]
    expect(page.locator("#editor-help")).to_be_hidden()  # the help text describes keys, which a phone does not have
    context.close()


def test_the_page_asks_for_a_token(browser: Browser, socket_path: Path, tmp_path: Path) -> None:
    """If the server requires tokens, the page asks for one at the first run and then continues."""
    tokens = tmp_path / "tokens"
    tokens.write_text("me run,exec,submit aaaaaaaaaaaaaaaaaaaaaaaa\n")
    tokens.chmod(0o600)
    with http_server("--tokens", str(tokens), daemon=socket_path) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        page.locator("#run").click()
        colour = "field => getComputedStyle(field).borderColor"
        assert page.locator("#token").evaluate(colour) == page.locator("#name").evaluate(colour)  # not yet marked wrong
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#outcome.failed")).to_contain_text("send a token")
        page.locator("#run").click()
        page.locator("#token").fill("a" * 24)
        page.get_by_text("Use it").click()
        expect(page.locator("#outcome.ok")).to_be_visible()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_layout_and_accessibility(browser: Browser, url: str, size: str, scheme: str) -> None:
    """axe reports no serious fault, and nothing is wider than the screen. `SCREENSHOTS=1` writes the images in docs."""
    viewport = DESKTOP if size == "desktop" else PHONE
    touch = size == "phone"
    page = browser.new_page(viewport=viewport, color_scheme=scheme, has_touch=touch, is_mobile=touch)  # type: ignore[arg-type, unused-ignore]
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    for index, kind in (("1", "ok"), ("4", "failed"), ("1", "ok")):
        page.locator("#examples").select_option(index)
        page.locator("#run").click()
        expect(page.locator(f"#outcome.{kind}")).to_be_visible()
        found = Axe().run(page).response["violations"]
        serious = [violation for violation in found if violation["impact"] in ("serious", "critical")]
        assert serious == [], [(violation["id"], violation["nodes"][0]["html"]) for violation in serious]
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    if os.environ.get("SCREENSHOTS"):
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"page-{size}-{scheme}.png", full_page=size == "phone")
    page.close()
