// Opens a stranger's page and then the provider's sign-out page, both with our address in a frame.
//
//   node framed.mjs --url http://127.0.0.1:8080/ --cookies '[{"name": ..., "value": ...}]' --stranger URL --provider URL

import { options, run, say, shoot } from './browser.mjs';

const given = options({ cookies: '[]', shots: '' });

/** What the frame of a page shows, and whether the session lives afterwards. */
async function opened(context, url) {
  const page = await context.newPage();
  await page.goto(url);
  const frame = page.frames().find((one) => one !== page.mainFrame());
  // The browser puts a page of its own in the place of what may not be shown.
  const shown = { at: frame.url().split('?')[0], title: await frame.title() };
  await shoot(page, given.shots, new URL(url).port);
  await page.close();
  const session = await context.request.get(new URL('/oauth2/session', given.url).href);
  return { ...shown, session: session.status() };
}

await run(given.shots, async (page, context) => {
  await context.addCookies(JSON.parse(given.cookies).map((cookie) => ({ ...cookie, url: given.url })));
  for (const step of ['stranger', 'provider']) say({ step, ok: true, ...(await opened(context, given[step])) });
});
