// Runs npm `oidc-provider` on loopback as the real provider of the end-to-end tests.
//
// Settings come in environment variables (see below); one JSON line says `ready`, and one more each time something
// happens that a test may count. Tokens and codes are never printed.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const env = (name, fallback) => process.env[name] ?? fallback;
const list = (name) => env(name, '').split(' ').filter(Boolean);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const port = Number(env('PORT', '0'));
const issuer = `http://127.0.0.1:${port}`;
const authMethod = env('CLIENT_AUTH', 'client_secret_basic');
const accessTokenSeconds = Number(env('ACCESS_TOKEN_SECONDS', '300'));

const jwk = (type, options, extra) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  use: 'sig',
  ...extra,
});

const client = {
  client_id: env('CLIENT_ID', 'shop'),
  client_name: 'daypass test',
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  redirect_uris: list('REDIRECT_URIS'),
  post_logout_redirect_uris: list('POST_LOGOUT_REDIRECT_URIS'),
  token_endpoint_auth_method: authMethod,
  id_token_signed_response_alg: env('ID_TOKEN_ALG', 'RS256'),
};
const backchannelLogoutUri = env('BACKCHANNEL_LOGOUT_URI');
if (backchannelLogoutUri) {
  // With `session_required` the ID token carries `sid`, and so does the logout token.
  Object.assign(client, {
    backchannel_logout_uri: backchannelLogoutUri,
    backchannel_logout_session_required: env('BACKCHANNEL_BY_SUBJECT') !== '1',
  });
}
if (authMethod.startsWith('client_secret')) client.client_secret = env('CLIENT_SECRET', 'test-only-secret');
if (authMethod === 'private_key_jwt') client.jwks = { keys: [JSON.parse(env('CLIENT_JWK'))] };

const provider = new Provider(issuer, {
  clients: [client],
  cookies: { keys: [randomBytes(16).toString('hex')] },
  jwks: {
    keys: [
      jwk('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: 'rsa' }),
      jwk('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: 'ec' }),
    ],
  },
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
  },
  // Claims stand in the ID token as well as at UserInfo, as most providers in use do it.
  conformIdTokenClaims: env('CLAIMS_AT_USERINFO_ONLY') === '1',
  features: {
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    introspection: { enabled: true },
    pushedAuthorizationRequests: {
      enabled: env('PAR', 'on') !== 'off',
      requirePushedAuthorizationRequests: env('PAR') === 'required',
    },
  },
  findAccount: (_ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      name: `${id.charAt(0).toUpperCase()}${id.slice(1)} Example`,
      preferred_username: id,
      email: `${id}@example.com`,
      email_verified: true,
    }),
  }),
  // The library calls nobody on loopback; here daypass is.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  // By default a refresh token takes `offline_access` and `prompt=consent`; most providers in use are not so strict.
  issueRefreshToken: (_ctx, candidate) => candidate.grantTypeAllowed('refresh_token'),
  ttl: {
    AccessToken: accessTokenSeconds,
    AuthorizationCode: 60,
    IdToken: 3600,
    RefreshToken: 86400,
    Interaction: 600,
    Session: 86400,
    Grant: 86400,
  },
});

const watched = [
  'authorization.success', 'authorization.error', 'grant.success', 'grant.error', 'grant.revoked',
  'refresh_token.consumed', 'end_session.success', 'end_session.error', 'revocation.error',
  'backchannel.success', 'backchannel.error',
  'pushed_authorization_request.success', 'pushed_authorization_request.error', 'userinfo.error', 'server_error',
];
for (const event of watched) {
  provider.on(event, (ctx, error) => {
    const line = { event, grant_type: ctx?.oidc?.params?.grant_type };
    if (error instanceof Error) Object.assign(line, { error: error.error ?? error.name, detail: error.error_description });
    say(line);
  });
}

const server = provider.listen(port, '127.0.0.1', () => say({ ready: issuer }));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => server.close(() => process.exit(0)));
// Ends with the test that started it, even when that one was killed.
process.stdin.on('end', () => process.exit(0)).resume();
