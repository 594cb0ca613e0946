// Listens in one tab, as a page does, and signs out in another.
//
//   node events.mjs --url http://127.0.0.1:8080/ --cookies '[{"name": ..., "value": ...}]' [--base-path /oauth2]

import { expect, options, run, say } from './browser.mjs';

const given = options({ cookies: '[]', shots: '', 'base-path': '/oauth2' });
const own = (path) => `${given['base-path']}/${path}`;

await run(given.shots, async (page, context) => {
  await context.addCookies(JSON.parse(given.cookies).map((cookie) => ({ ...cookie, url: given.url })));
  await page.goto(given.url);
  // Resolves when the stream is open: what happens then must be heard.
  await page.evaluate((url) => new Promise((opened, failed) => {
    window.told = [];
    window.source = new EventSource(url);
    for (const kind of ['expiring', 'refreshed', 'ended']) {
      window.source.addEventListener(kind, (event) => {
        window.told.push({ kind, data: JSON.parse(event.data), at: performance.now() });
      });
    }
    window.source.onopen = () => opened();
    setTimeout(() => failed(new Error('no stream of events')), 10_000);
  }), own('session/events'));
  say({ step: 'listening', ok: true });

  const tab = await context.newPage();
  await tab.goto(given.url);
  const status = await tab.evaluate((url) => fetch(url, { method: 'POST' }).then((answer) => answer.status), own('logout/local'));
  expect(status === 204, 'the other tab must sign out', { status });
  await page.waitForFunction(() => window.told.some((event) => event.kind === 'ended'));
  say({ step: 'ended', ok: true, told: await page.evaluate(() => window.told.map(({ kind, data }) => ({ kind, data }))) });

  // It comes back once, gets a 401, and gives up.
  await page.waitForFunction(() => window.source.readyState === EventSource.CLOSED);
  say({ step: 'gave_up', ok: true });
});
