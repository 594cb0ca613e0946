// Opens our own pages one after the other and looks at each as a person would: colours, keyboard, small screens.
//
//   node pages.mjs --url http://127.0.0.1:8080 --pages '[{"name": "…", "path": "/oauth2/login", "heading": "Sign in"}]'
//                  [--cookies '[{"name": "…", "value": "…"}]'] [--blocked yes] [--shots DIR]
//
// A row may say `elsewhere: true` (the page is reached by a link of another site) and `press: "Label"` (a link or button
// to press once the page has been looked at). `blocked` starts a browser that takes no cookies.

import { expect, options, run, say, shoot, watchPolicy } from './browser.mjs';

const given = options({ pages: '[]', cookies: '[]', blocked: '', shots: '' });
const origin = new URL(given.url).origin;

/** WCAG 2 contrast of every text with what is behind it; the smallest one. Runs in the page. */
function leastContrast() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = channels(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = { ratio: 21, text: '' };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || element.closest('script, style')) continue;
    const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < least.ratio) least = { ratio, text };
  }
  return least;
}

/** Everything that holds for each of our pages. */
async function look(page, row) {
  const facts = await page.evaluate(() => ({
    lang: document.documentElement.lang,
    title: document.title,
    headings: [...document.querySelectorAll('h1')].map((element) => element.innerText),
    mains: document.querySelectorAll('main').length,
    scripts: document.querySelectorAll('script').length,
    radius: getComputedStyle(document.querySelector('main') ?? document.body).borderRadius,
    actions: [...document.querySelectorAll('a, button')].map((element) => element.innerText.trim()),
    targets: [...document.querySelectorAll('a, button')].map((element) => element.getBoundingClientRect().height),
  }));
  expect(facts.headings.length === 1 && facts.headings[0] === row.heading, `${row.name}: heading`, facts);
  expect(facts.lang === 'en' && facts.mains === 1 && facts.title.startsWith(row.heading), `${row.name}: outline`, facts);
  expect(facts.scripts === 0, `${row.name}: there must be no script`);
  expect(facts.radius !== '0px', `${row.name}: the style sheet must be allowed by its hash`, facts);
  expect(facts.actions.length > 0, `${row.name}: there must be a way forward`);
  expect(facts.targets.every((height) => height >= 24), `${row.name}: targets must be large enough`, facts);

  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const least = await page.evaluate(leastContrast);
    expect(least.ratio >= 4.5, `${row.name}: contrast in ${colorScheme}`, least);
  }
  await page.emulateMedia({ colorScheme: 'light' });

  for (const action of facts.actions) {
    await page.keyboard.press('Tab');
    const focus = await page.evaluate(() => ({
      text: document.activeElement.innerText.trim(),
      outline: getComputedStyle(document.activeElement).outlineStyle,
    }));
    expect(focus.text === action && focus.outline !== 'none', `${row.name}: the keyboard must reach everything`, { action, focus });
  }

  const before = page.viewportSize();
  await page.setViewportSize({ width: 320, height: 640 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  expect(wide <= 320, `${row.name}: a small screen must not scroll sideways`, { wide });
  await page.setViewportSize(before);
  return facts.actions;
}

async function open(page, row) {
  const url = `${origin}${row.path}`;
  if (!row.elsewhere) return page.goto(url);
  await page.goto('data:text/html,<!doctype html><title>elsewhere</title>');
  await page.evaluate((href) => {
    document.body.append(Object.assign(document.createElement('a'), { href, textContent: 'kittens' }));
  }, url);
  const [response] = await Promise.all([page.waitForNavigation(), page.click('a')]);
  return response;
}

const cookies = JSON.parse(given.cookies).map((cookie) => ({ url: origin, httpOnly: true, sameSite: 'Lax', ...cookie }));
await run(given.shots, async (page, context) => {
  const violations = watchPolicy(page);
  await context.addCookies(cookies);
  for (const row of JSON.parse(given.pages)) {
    const response = await open(page, row);
    const headers = response.headers();
    const policy = headers['content-security-policy'] ?? '';
    expect(policy.startsWith("default-src 'none'") && policy.includes("frame-ancestors 'none'"), `${row.name}: policy`, { policy });
    expect(headers['cache-control'] === 'no-store', `${row.name}: nobody may keep it`, { cache: headers['cache-control'] });
    const actions = await look(page, row);
    await shoot(page, given.shots, row.name.replaceAll(' ', '-'));
    const line = { step: row.name, ok: true, status: response.status(), actions };
    if (row.press) {
      const action = page.getByRole('link', { name: row.press }).or(page.getByRole('button', { name: row.press }));
      await Promise.all([page.waitForNavigation(), action.click()]);
      Object.assign(line, { then: new URL(page.url()).pathname });
    }
    say(line);
    expect(violations.length === 0, `${row.name}: the page breaks its own policy`, { violations });
  }
  // The watch itself works: what the policy forbids is seen.
  await page.goto(`${origin}/oauth2/no-such-page`);
  const told = page.waitForEvent('console', { predicate: (message) => message.text().includes('Content Security Policy') });
  await page.evaluate(() => document.body.insertAdjacentHTML('beforeend', '<p style="color: red">'));
  await told;
  expect(violations.length > 0, 'a violation must be seen', { violations });
}, { blocked: given.blocked === 'yes' });
