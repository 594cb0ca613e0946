// Starts a real Chromium and gives scripts what they share: arguments, screenshots, result lines, failure reports.

import { createRequire } from 'node:module';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// The packages are installed beside the provider, where this folder's imports would not look.
const require = createRequire(new URL('../provider/package.json', import.meta.url));
const { chromium } = require('playwright-core');

/** `--name value` pairs of the command line, over `defaults`. */
export function options(defaults) {
  const values = { ...defaults };
  const words = process.argv.slice(2);
  for (let i = 0; i + 1 < words.length; i += 2) values[words[i].replace(/^--/, '')] = words[i + 1];
  return values;
}

/** One JSON line of the result. */
export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Fails the run unless `truth` holds. */
export function expect(truth, message, details = {}) {
  if (!truth) throw Object.assign(new Error(message), { details });
}

const OPTIONS = {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
};
const VIEW = { viewport: { width: 1100, height: 800 } };

/** A browser with an empty profile, closed when stdin does (so it never outlives the test that started it). */
async function launch({ blocked }) {
  const { context, end } = blocked ? await withoutCookies() : await ordinary();
  process.stdin.on('end', () => end().finally(() => process.exit(1))).resume();
  return { context, end };
}

async function ordinary() {
  const browser = await chromium.launch(OPTIONS);
  return { context: await browser.newContext(VIEW), end: () => browser.close() };
}

/** As a person who has switched cookies off: a setting of the profile, so there must be one. */
async function withoutCookies() {
  const profile = mkdtempSync(join(tmpdir(), 'daypass-browser-'));
  mkdirSync(join(profile, 'Default'));
  const settings = { profile: { default_content_setting_values: { cookies: 2 } } };
  writeFileSync(join(profile, 'Default', 'Preferences'), JSON.stringify(settings));
  const context = await chromium.launchPersistentContext(profile, { ...OPTIONS, ...VIEW });
  const end = () => context.close().finally(() => rmSync(profile, { recursive: true, force: true }));
  return { context, end };
}

/** Takes `NAME.light.png` and `NAME.dark.png` of the page as it stands. */
export async function shoot(page, directory, name) {
  if (!directory) return;
  mkdirSync(directory, { recursive: true });
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(directory, `${name}.${colorScheme}.png`), fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

/** Collects what the browser says about violated content security policies, from here on. */
export function watchPolicy(page) {
  const violations = [];
  page.on('console', (message) => {
    if (message.text().includes('Content Security Policy')) violations.push(message.text());
  });
  return violations;
}

/** Runs `script(page, context)` in a fresh browser; a failure is a result line, a screenshot and exit status 1. */
export async function run(directory, script, { blocked = false } = {}) {
  const { context, end } = await launch({ blocked });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  let status = 0;
  try {
    await script(page, context);
  } catch (error) {
    status = 1;
    const text = await page.innerText('body').catch(() => '');
    // Query strings carry codes and states: they stay out of reports.
    const url = page.url().split('?')[0];
    say({ step: 'failed', ok: false, error: error.message, details: error.details, url, text: text.slice(0, 2000) });
    await shoot(page, directory, 'failed').catch(() => {});
  }
  await end();
  process.exit(status);
}
