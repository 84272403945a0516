const url = new URL('https://example.com/search?q=1');
url.searchParams.set('q', prompt);
const { host, pathname, search } = url;
return { host, pathname, search, encoded: encodeURIComponent(prompt) };
