// POST /submit stores a program under its hash. GET /run/HASH?prompt= runs it in an isolate that all of its runs share.
// GET /fresh/HASH?prompt= runs it in a new isolate.
const programs = new Map();

const code = (source) => ({
  compatibilityDate: '2025-09-01',
  mainModule: 'program.js',
  modules: {
    'program.js': `const program = async (prompt) => {\n${source}\n; return result; };
export default { async fetch(request) {
  const prompt = new URL(request.url).searchParams.get('prompt');
  return Response.json(await program(prompt));
} };`,
  },
  globalOutbound: null,
  limits: { cpuMs: 50 },
});

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, action, hash] = url.pathname.split('/');
    if (action === 'submit') {
      const source = await request.text();
      const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(source));
      const name = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      programs.set(name, source);
      return new Response(name);
    }
    const source = programs.get(hash);
    if (source === undefined) return new Response('not found', { status: 404 });
    const stub = action === 'fresh' ? env.LOADER.load(code(source)) : env.LOADER.get(hash, () => code(source));
    return stub.getEntrypoint().fetch(`http://program/?prompt=${encodeURIComponent(url.searchParams.get('prompt'))}`);
  },
};
