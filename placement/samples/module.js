const answer = (prompt, env) => ({ prompt, env, at: typeof Date.now() });

export default {
  async fetch(request, env) {
    return Response.json(answer(await request.text(), env));
  },
};
