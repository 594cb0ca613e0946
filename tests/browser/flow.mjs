// Goes the whole way with a real browser: sign in, browse, outlive an access token, sign out, be asked again.
//
//   node flow.mjs --url http://127.0.0.1:8080 --provider http://127.0.0.1:9000 [--expiry 5] [--user jane]
//                 [--shots DIR] [--base-path /oauth2] [--until from_elsewhere]
//
// `expiry` is the life of an access token in seconds. The upstream must be the echo of the test machinery, the
// provider npm oidc-provider (two forms) or the scripted one with its sign-in page (one button a user).

import { expect, options, run, say, shoot, watchPolicy } from './browser.mjs';

const given = options({ user: 'jane', expiry: '5', shots: '', until: '', 'base-path': '/oauth2' });
const home = new URL('/', given.url).href;
const origin = new URL(given.url).origin;
const provider = new URL(given.provider).origin;
const own = (path) => `${origin}${given['base-path']}/${path}`;
const at = (page) => new URL(page.url()).origin;

async function fingerprint(page) {
  return (await page.innerText('#fingerprint')).trim();
}

/** Fills in the provider's forms until it sends the browser back. */
async function signIn(page, shots) {
  expect(at(page) === provider, 'the provider must ask who we are', { at: at(page) });
  for (let form = 0; form < 4 && at(page) === provider; form += 1) {
    await shoot(page, shots, `provider-${form + 1}`);
    if (await page.locator('input[name=login]').count()) {
      await page.fill('input[name=login]', given.user);
      await page.fill('input[name=password]', 'any');
    }
    const choice = page.locator(`button[name=username][value="${given.user}"]`);
    const button = (await choice.count()) ? choice : page.locator('button[type=submit]').first();
    await Promise.all([page.waitForNavigation(), button.click()]);
  }
  expect(at(page) === origin, 'the provider must send us back', { at: at(page) });
  // With strict cookies a page of ours stands in between and leads on by itself.
  await page.waitForURL((url) => !url.pathname.startsWith(given['base-path']));
}

/** Follows a link on a page of another site. */
async function fromElsewhere(page, url) {
  await page.goto('data:text/html,<!doctype html><title>elsewhere</title>');
  await page.evaluate((href) => {
    document.body.append(Object.assign(document.createElement('a'), { href, textContent: 'kittens' }));
  }, url);
  await Promise.all([page.waitForURL(`${origin}/**`), page.click('a')]);
  // The same page stands there for who comes from another site.
  await page.waitForFunction(() => !document.querySelector('meta[http-equiv=refresh]'));
}

/** Says yes where the provider asks whether to sign out. */
async function confirmAtProvider(page) {
  if (at(page) !== provider) return;
  await shoot(page, given.shots, 'provider-sign-out');
  const yes = page.locator('button[name=logout], button[type=submit]').first();
  await Promise.all([page.waitForURL(`${origin}/**`), yes.click()]);
}

await run(given.shots, async (page, context) => {
  const violations = watchPolicy(page);
  let asked = 0;
  page.on('framenavigated', (frame) => {
    if (frame === page.mainFrame() && new URL(frame.url()).origin === provider) asked += 1;
  });

  await page.goto(`${home}orders/7?x=1`);
  await signIn(page, given.shots);
  expect(page.url() === `${home}orders/7?x=1`, 'we must arrive where we wanted to go', { path: new URL(page.url()).pathname });
  const first = await fingerprint(page);
  expect(/^[0-9a-f]{16}$/.test(first), 'the upstream must see a token', { first });
  await shoot(page, given.shots, 'upstream');
  const user = await page.locator('#h-x-user').innerText().catch(() => null);
  say({ step: 'signed_in', ok: true, fingerprint: first, user });

  const cookies = (await context.cookies(home)).filter((cookie) => cookie.name.includes('daypass'));
  const visible = await page.evaluate(() => document.cookie);
  expect(cookies.length >= 1 && cookies.every((cookie) => cookie.httpOnly), 'our cookies must be HttpOnly');
  expect(!visible.includes('daypass'), 'scripts must not see our cookie');
  say({
    step: 'cookies', ok: true,
    cookies: cookies.map(({ name, httpOnly, secure, sameSite, path }) => ({ name, httpOnly, secure, sameSite, path })),
  });

  const session = await page.evaluate(async (url) => {
    const answer = await fetch(url);
    return { status: answer.status, body: await answer.json() };
  }, own('session'));
  expect(session.status === 200, 'the session endpoint must know us', session);
  say({ step: 'session', ok: true, session: session.body });

  const before = asked;
  await fromElsewhere(page, `${home}orders/7`);
  expect((await fingerprint(page)) !== 'none', 'a link of another site must find us signed in');
  expect(asked === before, 'nobody must be asked to sign in for that');
  say({ step: 'from_elsewhere', ok: true });
  if (given.until === 'from_elsewhere') return;

  await page.waitForTimeout((Number(given.expiry) + 1) * 1000);
  await page.reload();
  const second = await fingerprint(page);
  expect(second !== first, 'after expiry the upstream must see a new token', { first, second });
  expect(asked === before, 'nobody must be asked to sign in for that');
  say({ step: 'refreshed', ok: true, before: first, after: second });

  // A link on somebody else's page must not sign the user out.
  await fromElsewhere(page, own('logout'));
  await shoot(page, given.shots, 'confirm');
  say({ step: 'confirm', ok: true, title: await page.title(), heading: await page.innerText('h1') });
  await Promise.all([page.waitForNavigation(), page.getByRole('link', { name: 'Stay signed in' }).click()]);
  expect(at(page) === origin && (await fingerprint(page)) !== 'none', 'a foreign link must not sign us out');

  await page.goto(own('callback?error=access_denied&state=none'));
  await shoot(page, given.shots, 'error');
  say({ step: 'error_page', ok: true, title: await page.title(), heading: await page.innerText('h1') });

  await page.goto(home);
  await Promise.all([page.waitForNavigation(), page.click('nav a.out')]);
  await confirmAtProvider(page);
  await shoot(page, given.shots, 'signed-out');
  const left = (await context.cookies(home)).filter((cookie) => cookie.name.includes('daypass') && cookie.value);
  say({ step: 'signed_out', ok: true, title: await page.title(), cookies: left.map((cookie) => cookie.name) });

  await page.goto(home);
  expect(at(page) === provider, 'after signing out we must be asked again', { at: at(page) });
  expect((await page.locator('input[name=login], button[name=username]').count()) > 0, 'the provider must show its form');
  say({ step: 'asked_again', ok: true });

  // Once more, and out through our own form, whose policy names the places its answer may lead to.
  await signIn(page, '');
  expect((await fingerprint(page)) !== 'none', 'we must be signed in again');
  await fromElsewhere(page, own('logout'));
  await Promise.all([page.waitForNavigation(), page.getByRole('button', { name: 'Sign out' }).click()]);
  await confirmAtProvider(page);
  say({ step: 'signed_out_by_form', ok: true, path: new URL(page.url()).pathname, heading: await page.innerText('h1') });
  await page.goto(home);
  expect(at(page) === provider, 'after that, too, we must be asked', { at: at(page) });

  await page.goto(`${home}public`);
  await shoot(page, given.shots, 'public');
  say({ step: 'public', ok: true, fingerprint: await fingerprint(page) });
  expect(violations.length === 0, 'no page may break its own policy', { violations });
});
